// The kit: what a sandbox needs from the checkout, for a podid that has none. It is laid out as a
// checkout whose programs are built: bin, charts/podid, and the module that pins Kubernetes.

package programs

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// kitChecksum is the SHA-512 of the kit that belongs to this podid. `make release` sets it at link
// time; a podid without it makes its kit from the module that it was installed from.
var kitChecksum string //nolint:gochecknoglobals // the linker can set nothing else

// pins are copies of the files of hack/kubernetes, which is another module, so that neither the
// compiler nor a download of this module includes it. `make verify` compares them.
//
//go:embed pins
var pins embed.FS

const module = "github.com/podid-io/podid"

// Ready makes sure that Source finds a checkout or a kit. It gets the kit if it does not: from the
// release that this podid belongs to, or built from the module that it was installed from.
func Ready(ctx context.Context, getenv func(string) string, report *progress.Reporter) error {
	_, missing := Source()
	if missing == nil {
		return nil
	}
	k, err := ownKit(getenv)
	if err != nil {
		return missing
	}
	if err := os.MkdirAll(filepath.Dir(k.dir), 0o755); err != nil {
		return fmt.Errorf("create the cache: %w", err)
	}
	unlock, err := lock(filepath.Join(filepath.Dir(k.dir), ".lock"), report)
	if err != nil {
		return err
	}
	defer unlock()
	if k.complete() { // another podid got it meanwhile
		return nil
	}
	what, get := "download podid's own programs and chart, once", k.download
	if kitChecksum == "" {
		what, get = "build podid's own programs, helm and etcd from source, once", k.build
	}
	step := report.Start(what)
	if err := k.get(ctx, step, get); err != nil {
		step.Fail()
		return fmt.Errorf("%s: %w", what, err)
	}
	step.Done("")
	return nil
}

// kit is the one of this podid.
type kit struct {
	cache, dir, version, mirror string
}

// ownKit returns the kit of this podid. It fails for a podid that belongs to no version of the
// module.
func ownKit(getenv func(string) string) (kit, error) {
	cache, err := Cache(getenv)
	if err != nil {
		return kit{}, err
	}
	k := kit{cache: cache, version: build.Version(), mirror: getenv("PODID_RELEASE_MIRROR")}
	id := k.version
	switch {
	case kitChecksum != "":
		id += "-" + kitChecksum[:12]
	case !published(id):
		return kit{}, fmt.Errorf("find podid's source: there is no checkout here or above, and this podid (%s) is neither a release nor "+
			"installed with `go install %s/cmd/podid@VERSION`", id, module)
	}
	k.dir = filepath.Join(cache, "kits", id)
	return k, nil
}

// pseudoVersion is what Go calls a commit without a tag.
var pseudoVersion = regexp.MustCompile(`^v[0-9]+\.(0\.0-|[0-9]+\.[0-9]+-([0-9A-Za-z.-]+\.)?0\.)[0-9]{14}-[0-9a-f]{12}$`)

// published reports whether the go command can get this version of the module. It cannot for what
// git describes between two tags, and files that were changed are nowhere but here.
func published(version string) bool {
	_, ok := build.ReleaseNumber(version)
	return ok || pseudoVersion.MatchString(version)
}

func (k kit) complete() bool {
	_, err := os.Stat(filepath.Join(k.dir, kubernetesModule, "go.mod"))
	return err == nil
}

// get fills a temporary folder, which becomes the kit when it is complete.
func (k kit) get(ctx context.Context, step Step, fill func(context.Context, string, Step) error) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(k.dir), ".kit-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	tree := filepath.Join(work, "tree")
	if err := fill(ctx, tree, step); err != nil {
		return err
	}
	return os.Rename(tree, k.dir)
}

// download gets the archive of the release.
func (k kit) download(ctx context.Context, to string, step Step) error {
	number := strings.TrimPrefix(k.version, "v")
	r := release{
		version: k.version, arch: runtime.GOARCH, sha512: kitChecksum,
		site: "https://" + module + "/releases/download",
		path: k.version + "/podid-sandbox_" + number + "_linux_" + runtime.GOARCH + ".tar.gz",
	}
	archive, err := newDownloader(filepath.Join(k.cache, "downloads"), k.mirror).fetch(ctx, r, step)
	if err != nil {
		return err
	}
	step.Far("unpacking")
	if err := unpackTree(archive, to); err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	return os.Remove(archive)
}

// unpackTree unpacks the files of an archive into a folder.
func unpackTree(archive, to string) error {
	return eachFile(archive, func(header *tar.Header, content io.Reader) (bool, error) {
		if !filepath.IsLocal(header.Name) || header.Typeflag != tar.TypeReg {
			return false, fmt.Errorf("%q is no file inside the archive", header.Name)
		}
		file := filepath.Join(to, header.Name) //nolint:gosec // IsLocal has refused names that leave the folder
		return false, writeFile(file, content, header.FileInfo().Mode().Perm())
	})
}

func writeFile(file string, content io.Reader, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// build makes the kit from the module in Go's cache, whose content the checksum database vouches
// for.
func (k kit) build(ctx context.Context, to string, step Step) error {
	source, err := moduleDir(ctx, filepath.Dir(to), k.version)
	if err != nil {
		return err
	}
	if err := writePins(filepath.Join(to, kubernetesModule)); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(to, "charts"), os.DirFS(filepath.Join(source, "charts"))); err != nil {
		return err
	}
	bin := filepath.Join(to, "bin")
	version := "-X " + module + "/internal/build.version=" + k.version
	for _, pkg := range []string{"./cmd/mic", "./cmd/nmi", "./cmd/nmi-holder", "./test/demo", "./hack/pause"} {
		step.Far("%s", pkg)
		flags := []string{"-trimpath", "-ldflags=-s -w " + version, "-o", filepath.Join(bin, filepath.Base(pkg))}
		if err := goRun(ctx, source, nil, flags, pkg); err != nil {
			return fmt.Errorf("build %s: %w", pkg, err)
		}
	}
	flags := []string{"-trimpath", "-modfile=go.tools.mod", "-ldflags=-s -w", "-o", filepath.Join(bin, "helm")}
	return goRun(ctx, source, step, flags, helmPackage)
}

// moduleDir returns the folder of this module's version in Go's cache, and downloads it if it is
// not there.
func moduleDir(ctx context.Context, work, version string) (string, error) {
	cmd := goCommand(ctx, work, "mod", "download", "-json", module+"@"+version)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var answer struct{ Dir, Error string }
	if json.Unmarshal(out, &answer) == nil && answer.Error != "" {
		return "", fmt.Errorf("download %s@%s: %s", module, version, answer.Error)
	}
	if err != nil {
		return "", fmt.Errorf("download %s@%s with the go command: %w %s", module, version, err, bytes.TrimSpace(errs.Bytes()))
	}
	return answer.Dir, nil
}

// writePins writes the module that pins Kubernetes.
func writePins(dir string) error {
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := pins.ReadFile("pins/" + name + ".txt")
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name), bytes.NewReader(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
