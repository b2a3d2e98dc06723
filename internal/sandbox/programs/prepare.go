// Preparing: one command that ends with every program in place, whoever runs it at the same time.

package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/progress"
)

// APITest names the programs that tests against a real API server need; they live together in the folder Set.Assets.
func APITest() []string { return []string{"etcd", "kube-apiserver", "kubectl"} }

// Prepare finds the named programs, all of them when none is named, or gets them. For each the order is: the folder
// KUBEBUILDER_ASSETS, the cache, PATH, and then the pinned source or Debian's packages.
func Prepare(ctx context.Context, getenv func(string) string, report *progress.Reporter, names ...string) (Set, error) {
	cache, err := Cache(getenv)
	if err != nil {
		return Set{}, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Set{}, fmt.Errorf("make the cache: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, ".lock"), report)
	if err != nil {
		return Set{}, err
	}
	defer unlock()
	p := preparation{cache: cache, getenv: getenv, report: report, set: Set{Paths: map[string]string{}}}
	if err := p.pinned(); err != nil {
		return Set{}, err
	}
	for _, k := range kinds {
		if len(names) > 0 && !slices.Contains(names, k.name) {
			continue
		}
		if err := p.find(ctx, k); err != nil {
			return Set{}, err
		}
	}
	if len(names) == 0 {
		if err := p.findCNI(ctx); err != nil {
			return Set{}, err
		}
	}
	if err := p.linkAssets(); err != nil {
		return Set{}, err
	}
	return p.set, nil
}

// preparation is one run of Prepare.
type preparation struct {
	cache    string
	getenv   func(string) string
	report   *progress.Reporter
	checkout string
	fetched  bool // Debian's packages were fetched in this run
	set      Set
}

// pinned reads which Kubernetes is wanted.
func (p *preparation) pinned() error {
	var err error
	if p.checkout, err = Source(); err != nil {
		return err
	}
	p.set.Kubernetes, err = kubernetes("").version(p.checkout)
	return err
}

func (p *preparation) debian() string { return filepath.Join(p.cache, "debian") }

// own is where the cache keeps the program.
func (p *preparation) own(k kind) (string, error) {
	if k.source == nil {
		return filepath.Join(p.debian(), k.tree), nil
	}
	version, err := k.source.version(p.checkout)
	return filepath.Join(p.cache, filepath.Base(k.source.module), version, k.name), err
}

func (p *preparation) find(ctx context.Context, k kind) error {
	own, err := p.own(k)
	if err != nil {
		return err
	}
	for _, file := range p.candidates(k.name, own) {
		if file == own && k.source != nil && p.trust(k, own) {
			return nil
		}
		if p.take(ctx, k, file) {
			return nil
		}
	}
	if ctx.Err() != nil { // what was asked for its version did not fail by itself
		return context.Cause(ctx)
	}
	if err := p.get(ctx, k, own); err != nil {
		return err
	}
	if !p.take(ctx, k, own) {
		return fmt.Errorf("%s does not run or has the wrong version: remove %s and try again", k.name, own)
	}
	return nil
}

// candidates are the places to look, best first. The asset folder that Prepare itself makes only links to the others.
func (p *preparation) candidates(name, own string) []string {
	var files []string
	if dir := p.getenv("KUBEBUILDER_ASSETS"); dir != "" && filepath.Clean(dir) != p.assets() {
		files = append(files, filepath.Join(dir, name))
	}
	files = append(files, own)
	if file, err := exec.LookPath(name); err == nil {
		files = append(files, file)
	}
	return files
}

// trust takes what this cache built without asking it: its folder is its version, and it was complete when it got its
// name. That saves the time to start each program once.
func (p *preparation) trust(k kind, own string) bool {
	if _, err := os.Stat(own); err != nil {
		return false
	}
	p.set.Paths[k.name] = own
	return true
}

// take puts the program into the set if it is there, runs and fits.
func (p *preparation) take(ctx context.Context, k kind, file string) bool {
	if _, err := os.Stat(file); err != nil {
		return false
	}
	v, line, err := k.version(ctx, file, libraryDir(p.debian()))
	if err != nil || !k.fits(v, p.set.Kubernetes) {
		return false
	}
	p.set.Paths[k.name] = file
	if k.name == "containerd" {
		p.set.ContainerdVersion = line
	}
	if k.tree != "" && strings.HasPrefix(file, p.debian()+"/") {
		p.set.Libraries = libraryDir(p.debian())
	}
	return true
}

// get builds or downloads what is nowhere to be found.
func (p *preparation) get(ctx context.Context, k kind, own string) error {
	if k.source != nil {
		version, err := k.source.version(p.checkout)
		if err != nil {
			return err
		}
		step := p.report.Start(fmt.Sprintf("build %s %s from source, once", k.name, version))
		if err := k.source.build(ctx, p.checkout, version, own, step); err != nil {
			step.Fail()
			return fmt.Errorf("build %s: %w", k.name, err)
		}
		step.Done("")
		return nil
	}
	if p.fetched {
		return nil
	}
	step := p.report.Start("fetch containerd, runc, CNI plugins and nft from Debian's packages, once")
	if err := fetchDebian(ctx, p.debian(), step); err != nil {
		step.Fail()
		return err
	}
	step.Done("")
	p.fetched = true
	return nil
}

// findCNI looks for a folder with the plugins that the nodes use.
func (p *preparation) findCNI(ctx context.Context) error {
	own := filepath.Join(p.debian(), "usr/lib/cni")
	complete := func(dir string) bool {
		for _, plugin := range []string{"bridge", "host-local", "loopback"} {
			if _, err := os.Stat(filepath.Join(dir, plugin)); err != nil {
				return false
			}
		}
		return true
	}
	dirs := []string{own, "/opt/cni/bin", "/usr/lib/cni"}
	i := slices.IndexFunc(dirs, complete)
	if i < 0 {
		if err := p.get(ctx, kind{name: "the CNI plugins"}, own); err != nil {
			return err
		}
		if i = slices.IndexFunc(dirs, complete); i < 0 {
			return errors.New("find the CNI plugins: Debian's package does not hold bridge, host-local and loopback")
		}
	}
	p.set.CNI = dirs[i]
	return nil
}

func (p *preparation) assets() string { return filepath.Join(p.cache, "assets") }

// linkAssets keeps a folder that other tools can use as KUBEBUILDER_ASSETS.
func (p *preparation) linkAssets() error {
	p.set.Assets = p.assets()
	if err := os.MkdirAll(p.assets(), 0o755); err != nil {
		return fmt.Errorf("make the asset folder: %w", err)
	}
	for _, name := range APITest() {
		file, ok := p.set.Paths[name]
		if !ok {
			continue
		}
		link := filepath.Join(p.assets(), name)
		if now, err := os.Readlink(link); err == nil && now == file {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("make the asset folder: %w", err)
		}
		if err := os.Symlink(file, link); err != nil {
			return fmt.Errorf("make the asset folder: %w", err)
		}
	}
	return nil
}

// lock lets one process at a time prepare; the others wait, since the one ahead does their work too.
func lock(file string, report *progress.Reporter) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		step := report.Start("wait for another podid that is preparing programs")
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		step.Done("")
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	return func() { _ = f.Close() }, nil // closing lets go of the lock
}
