// Programs from Debian's packages, unpacked into the cache.

package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Step receives the progress of a piece of work.
type Step interface {
	Far(format string, args ...any)
}

// packages lists what the sandbox needs from Debian, and the libraries that a minimal system lacks.
var packages = []string{ //nolint:gochecknoglobals // a constant list
	"containerd", "runc", "containernetworking-plugins",
	"nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libxtables12",
	"libedit2", "libbsd0", "libmd0", "libtinfo6", "libgmp10", "libseccomp2",
}

// fetchDebian downloads and unpacks the packages into dir, which appears only when it is complete.
func fetchDebian(ctx context.Context, dir string, step Step) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("this is not a Debian machine (no apt-get): install containerd 1.6 or later, runc, the CNI plugins and nft in PATH")
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".debian-")
	if err != nil {
		return fmt.Errorf("fetch Debian packages: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	step.Far("downloading %d packages", len(packages))
	if err := aptDownload(ctx, work, step); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return fmt.Errorf("fetch Debian packages: %w", err)
	}
	tree := filepath.Join(work, "tree")
	for i, deb := range debs {
		step.Far("unpacking %d of %d", i+1, len(debs))
		if err := run(ctx, work, "dpkg-deb", "--extract", deb, tree); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("replace the old packages: %w", err)
	}
	if err := os.Rename(tree, dir); err != nil {
		return fmt.Errorf("keep the unpacked packages: %w", err)
	}
	return nil
}

// aptDownload tries the machine's package lists, and then fresh ones in a temporary folder. The
// machine's lists stay unchanged.
func aptDownload(ctx context.Context, work string, step Step) error {
	if run(ctx, work, "apt-get", append([]string{"-qq", "download"}, packages...)...) == nil {
		return nil
	}
	step.Far("refreshing the package lists")
	lists := filepath.Join(work, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return fmt.Errorf("fetch Debian packages: %w", err)
	}
	own := []string{"-qq", "-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + work, "-o", "APT::Sandbox::User=root"}
	if err := run(ctx, work, "apt-get", append(own, "update")...); err != nil {
		return fmt.Errorf("refresh the package lists (is Debian's mirror reachable?): %w", err)
	}
	step.Far("downloading %d packages", len(packages))
	if err := run(ctx, work, "apt-get", append(append(own, "download"), packages...)...); err != nil {
		return fmt.Errorf("download Debian packages (is Debian's mirror reachable?): %w", err)
	}
	return nil
}

// run runs a program. The error contains the program's output.
func run(ctx context.Context, dir string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		const most = 2000 // the cause is at the end of the output
		text := strings.TrimSpace(out.String())
		if len(text) > most {
			text = "…" + text[len(text)-most:]
		}
		return fmt.Errorf("%s: %w\n%s", name, err, text)
	}
	return nil
}

// libraryDir returns where Debian keeps shared libraries on this machine's architecture.
func libraryDir(tree string) string {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	return filepath.Join(tree, "usr/lib", triplet)
}
