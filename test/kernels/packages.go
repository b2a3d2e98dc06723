// Kernels from the packages of Debian and Ubuntu.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// archive is a distribution's archive of packages.
type archive string

const (
	debian archive = "debian"
	ubuntu archive = "ubuntu"
)

// fetch returns the folder with a kernel's packages, unpacked. It downloads them the first time.
func fetch(ctx context.Context, store string, k kernel) (string, error) {
	dir := filepath.Join(store, k.name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Printf("..    %s: downloading the kernel of %s\n", k.name, k.suite)
	a, err := openApt(ctx, store, k.archive, k.suite)
	if err != nil {
		return "", err
	}
	defer a.close()
	packages, err := a.kernelPackages(ctx, k.meta)
	if err != nil {
		return "", err
	}
	tree, err := a.unpack(ctx, packages...)
	if err != nil {
		return "", err
	}
	if err := makeModulesDep(ctx, tree); err != nil {
		return "", err
	}
	if err := os.Rename(tree, dir); err != nil {
		return "", fmt.Errorf("keep the kernel: %w", err)
	}
	return dir, nil
}

// apt is apt with package lists of its own, for one suite. The machine's lists stay unchanged.
type apt struct {
	dir   string
	suite string
}

func openApt(ctx context.Context, store string, from archive, suite string) (a *apt, err error) {
	a = &apt{suite: suite}
	if a.dir, err = os.MkdirTemp(store, ".apt-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	for _, folder := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, folder), 0o755); err != nil {
			return nil, err
		}
	}
	mirror, key, err := a.mirror(ctx, store, from)
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", key, mirror, suite)
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(source), 0o644); err != nil {
		return nil, err
	}
	if _, err := a.run(ctx, "apt-get", "-qq", "--error-on=any", "update"); err != nil {
		return nil, fmt.Errorf("read the packages of %s: %w", suite, err)
	}
	return a, nil
}

func (a *apt) close() { _ = os.RemoveAll(a.dir) }

// mirror returns the address of an archive and the file of its keys: Debian's as this machine is
// set up for it, Ubuntu's as Debian's debootstrap knows it.
func (a *apt) mirror(ctx context.Context, store string, of archive) (address, key string, err error) {
	if of == debian {
		address, err = debianMirror(ctx)
		return address, "/usr/share/keyrings/debian-archive-keyring.gpg", err
	}
	from, err := openApt(ctx, store, debian, "trixie")
	if err != nil {
		return "", "", err
	}
	defer from.close()
	tree, err := from.unpack(ctx, "debootstrap", "ubuntu-keyring")
	if err != nil {
		return "", "", err
	}
	key = filepath.Join(a.dir, "keyring.gpg")
	if err := os.Rename(filepath.Join(tree, "usr/share/keyrings/ubuntu-archive-keyring.gpg"), key); err != nil {
		return "", "", err
	}
	script, err := os.ReadFile(filepath.Join(tree, "usr/share/debootstrap/scripts/gutsy")) // for all later suites, too
	if err != nil {
		return "", "", err
	}
	found := regexp.MustCompile(`default_mirror (\S+)`).FindSubmatch(script)
	if found == nil {
		return "", "", errors.New("find Ubuntu's archive: debootstrap does not name it")
	}
	return string(found[1]), key, nil
}

func debianMirror(ctx context.Context) (string, error) {
	out, err := command(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI)")
	if err != nil {
		return "", fmt.Errorf("find Debian's archive: %w", err)
	}
	for address := range strings.Lines(out) {
		if address = strings.TrimSpace(address); strings.HasSuffix(address, "/debian/") {
			return address, nil
		}
	}
	return "", errors.New("find Debian's archive: apt is not set up for it on this machine")
}

// run runs a program of apt with this folder.
func (a *apt) run(ctx context.Context, program string, args ...string) (string, error) {
	options := []string{
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"), "-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"), "-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::State::status=/dev/null", "-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none",
	}
	return command(ctx, a.dir, program, append(options, args...)...)
}

// kernelPackages returns the packages with the kernel and its modules that a metapackage depends
// on.
func (a *apt) kernelPackages(ctx context.Context, meta string) ([]string, error) {
	out, err := a.run(ctx, "apt-cache", "depends", "--recurse", "--important", meta)
	if err != nil {
		return nil, fmt.Errorf("read the dependencies of %s: %w", meta, err)
	}
	found := regexp.MustCompile(`(?m)^linux-(?:image|modules)-\d.*$`).FindAllString(out, -1)
	if len(found) == 0 {
		return nil, fmt.Errorf("%s of %s depends on no kernel", meta, a.suite)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// unpack downloads packages and unpacks them in a folder.
func (a *apt) unpack(ctx context.Context, packages ...string) (string, error) {
	if _, err := a.run(ctx, "apt-get", append([]string{"-qq", "download"}, packages...)...); err != nil {
		return "", fmt.Errorf("download %s: %w", strings.Join(packages, ", "), err)
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if err != nil {
		return "", err
	}
	tree := filepath.Join(a.dir, "tree")
	for _, deb := range debs {
		if _, err := command(ctx, a.dir, "dpkg-deb", "--extract", deb, tree); err != nil {
			return "", fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	return tree, nil
}

// command runs a program and returns what it prints. The error contains what it complains about.
func command(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", program, err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.String(), nil
}
