// Preparation: one command that ends with every program in place, safe to run several times at
// once.

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

// APITest lists the programs that tests against a real API server need; they are together in the
// folder Set.Assets.
func APITest() []string { return []string{"etcd", "kube-apiserver", "kubectl"} }

// Prepare finds the named programs, or all of them when none is named, and gets what is missing.
// Each program is looked for in the folder KUBEBUILDER_ASSETS, in the cache and in PATH. Kubernetes
// and etcd are then downloaded or built, as PODID_KUBERNETES says; the rest comes from Debian's
// packages.
func Prepare(ctx context.Context, getenv func(string) string, report *progress.Reporter, names ...string) (Set, error) {
	if err := Ready(ctx, getenv, report); err != nil {
		return Set{}, err
	}
	p, err := newPreparation(getenv, report)
	if err != nil {
		return Set{}, err
	}
	if err := os.MkdirAll(p.cache, 0o755); err != nil {
		return Set{}, fmt.Errorf("create the cache: %w", err)
	}
	unlock, err := lock(filepath.Join(p.cache, ".lock"), report)
	if err != nil {
		return Set{}, err
	}
	defer unlock()
	if err := p.findAll(ctx, names); err != nil {
		return Set{}, err
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
	origin   origin
	releases []release
	fetched  bool // Debian's packages were fetched in this run
	set      Set
}

func newPreparation(getenv func(string) string, report *progress.Reporter) (*preparation, error) {
	p := &preparation{getenv: getenv, report: report, releases: releases, set: Set{Paths: map[string]string{}}}
	var err error
	if p.cache, err = Cache(getenv); err != nil {
		return nil, err
	}
	if p.origin, err = parseOrigin(getenv("PODID_KUBERNETES")); err != nil {
		return nil, err
	}
	if p.checkout, err = Source(); err != nil {
		return nil, err
	}
	p.set.Kubernetes, err = kubernetes("").version(p.checkout)
	return p, err
}

func (p *preparation) debian() string { return filepath.Join(p.cache, "debian") }

// own returns where the cache keeps the program.
func (p *preparation) own(k kind) (string, error) {
	if k.source == nil {
		return filepath.Join(p.debian(), k.tree), nil
	}
	folder, err := p.built(k.source)
	return filepath.Join(folder, k.name), err
}

// built returns the folder of the cache for programs from a source; its name is their version.
func (p *preparation) built(s *source) (string, error) {
	version, err := s.version(p.checkout)
	return filepath.Join(p.cache, s.folder, version), err
}

// findAll puts the named programs into the set, all of them when there are no names.
func (p *preparation) findAll(ctx context.Context, names []string) error {
	var missing []kind
	for _, k := range kinds {
		if len(names) > 0 && !slices.Contains(names, k.name) {
			continue
		}
		found, err := p.find(ctx, k)
		if err != nil {
			return err
		}
		if !found {
			missing = append(missing, k)
		}
	}
	if ctx.Err() != nil { // then a program counts as missing because asking for its version was cut short
		return context.Cause(ctx)
	}
	return p.get(ctx, missing)
}

// find looks for the program and reports whether it is now in the set.
func (p *preparation) find(ctx context.Context, k kind) (bool, error) {
	own, err := p.own(k)
	if err != nil {
		return false, err
	}
	for _, file := range p.candidates(k, own) {
		if file == own && k.source != nil && p.trust(k, own) || p.accept(ctx, k, file) {
			return true, nil
		}
	}
	return false, nil
}

// candidates returns the places to look, best first. It skips the asset folder that Prepare itself
// makes, which only links to the others.
func (p *preparation) candidates(k kind, own string) []string {
	var files []string
	if dir := p.getenv("KUBEBUILDER_ASSETS"); dir != "" && filepath.Clean(dir) != p.assets() {
		files = append(files, filepath.Join(dir, k.name))
	}
	files = append(files, own)
	if file, ok := prebuilt(p.checkout, k.name); ok {
		files = append(files, file)
	}
	if k.source != nil && k.least != (version{}) { // another version may do as well
		others, _ := filepath.Glob(filepath.Join(p.cache, k.source.folder, "v*", k.name)) // the pattern is valid
		files = append(files, others...)
	}
	if file, err := exec.LookPath(k.name); err == nil {
		files = append(files, file)
	}
	return files
}

// trust accepts what this cache holds without asking it for its version: the folder is named after
// it, and a file gets its name only when it is complete. That saves starting each program once.
func (p *preparation) trust(k kind, own string) bool {
	if _, err := os.Stat(own); err != nil {
		return false
	}
	p.set.Paths[k.name] = own
	return true
}

// accept puts the program into the set if it exists, runs and has a fitting version.
func (p *preparation) accept(ctx context.Context, k kind, file string) bool {
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

// get obtains the missing programs: release archives first if they may be downloaded, then the
// source for the rest, and Debian's packages.
func (p *preparation) get(ctx context.Context, missing []kind) error {
	var sources []kind
	for _, k := range missing {
		if k.source != nil {
			sources = append(sources, k)
		} else if err := p.fetchDebian(ctx); err != nil {
			return err
		}
	}
	if p.origin != fromSource {
		var err error
		if sources, err = p.download(ctx, sources); err != nil {
			return err
		}
	}
	if err := p.build(ctx, sources); err != nil {
		return err
	}
	for _, k := range missing {
		own, err := p.own(k)
		if err != nil {
			return err
		}
		if !p.accept(ctx, k, own) {
			return fmt.Errorf("%s does not run or has the wrong version: remove %s and try again", k.name, own)
		}
	}
	return nil
}

func (p *preparation) fetchDebian(ctx context.Context) error {
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
	complete := func(dir string) bool {
		for _, plugin := range []string{"bridge", "ptp", "host-local", "loopback"} {
			if _, err := os.Stat(filepath.Join(dir, plugin)); err != nil {
				return false
			}
		}
		return true
	}
	dirs := []string{filepath.Join(p.debian(), "usr/lib/cni"), "/opt/cni/bin", "/usr/lib/cni"}
	i := slices.IndexFunc(dirs, complete)
	if i < 0 {
		if err := p.fetchDebian(ctx); err != nil {
			return err
		}
		if i = slices.IndexFunc(dirs, complete); i < 0 {
			return errors.New("find the CNI plugins: Debian's package does not hold bridge, ptp, host-local and loopback")
		}
	}
	p.set.CNI = dirs[i]
	return nil
}

func (p *preparation) assets() string { return filepath.Join(p.cache, "assets") }

// linkAssets maintains a folder that other tools can use as KUBEBUILDER_ASSETS.
func (p *preparation) linkAssets() error {
	p.set.Assets = p.assets()
	if err := os.MkdirAll(p.assets(), 0o755); err != nil {
		return fmt.Errorf("create the asset folder: %w", err)
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
			return fmt.Errorf("update the asset folder: %w", err)
		}
		if err := os.Symlink(file, link); err != nil {
			return fmt.Errorf("update the asset folder: %w", err)
		}
	}
	return nil
}

// lock lets one podid at a time write to the cache; the others wait and then use what it made.
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
	return func() { _ = f.Close() }, nil // closing releases the lock
}
