// Where Kubernetes and etcd come from when the machine has none: releases or their source.

package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// origin is the value of PODID_KUBERNETES.
type origin string

const (
	// fromRelease downloads the official archive where its checksum is known, and otherwise builds.
	fromRelease origin = "download"
	fromSource  origin = "source"
	// fromEither is fromRelease, except that a program is built if its archive cannot be reached.
	fromEither origin = "auto"
)

func parseOrigin(value string) (origin, error) {
	switch o := origin(value); o {
	case "":
		return fromEither, nil
	case fromRelease, fromSource, fromEither:
		return o, nil
	}
	return "", fmt.Errorf("PODID_KUBERNETES=%s: use source, download or auto", value)
}

// download gets programs from release archives and returns those that remain to be built.
func (p *preparation) download(ctx context.Context, missing []kind) (rest []kind, err error) {
	for len(missing) > 0 {
		var group []kind
		first := missing[0].source
		missing, group = split(missing, func(k kind) bool { return k.source.pinned == first.pinned })
		got, err := p.downloadGroup(ctx, first, group)
		if err != nil {
			return nil, err
		}
		if !got {
			rest = append(rest, group...)
		}
	}
	return rest, nil
}

// split separates the programs that match from those that do not.
func split(all []kind, match func(kind) bool) (others, matching []kind) {
	for _, k := range all {
		if match(k) {
			matching = append(matching, k)
		} else {
			others = append(others, k)
		}
	}
	return others, matching
}

// downloadGroup gets programs of one project and reports whether it did. It fails only if building
// is not allowed instead.
func (p *preparation) downloadGroup(ctx context.Context, s *source, group []kind) (bool, error) {
	version, err := s.version(p.checkout)
	if err != nil {
		return false, err
	}
	r, ok := findRelease(p.releases, s.folder, version)
	if !ok {
		p.report.Say("no checksum of an official %s %s archive is recorded: building it from source", s.folder, version)
		return false, nil
	}
	step := p.report.Start(fmt.Sprintf("download %s %s, once", s.folder, version))
	if err := p.unpackRelease(ctx, r, group, step); err != nil {
		step.Fail()
		if p.origin == fromRelease || ctx.Err() != nil {
			return false, err
		}
		p.report.Say("%v: building from source instead", err)
		return false, nil
	}
	step.Done("")
	return true, nil
}

func (p *preparation) unpackRelease(ctx context.Context, r release, group []kind, step Step) error {
	d := newDownloader(filepath.Join(p.cache, "downloads"), p.getenv("PODID_KUBERNETES_MIRROR"))
	archive, err := d.fetch(ctx, r, step)
	if err != nil {
		return err
	}
	step.Far("unpacking")
	if err := unpack(archive, r.dir, filepath.Join(p.cache, r.folder, r.version), names(group)); err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	for _, k := range group {
		own := filepath.Join(p.cache, r.folder, r.version, k.name)
		if !p.accept(ctx, k, own) {
			return errors.Join(fmt.Errorf("the downloaded %s does not run on this machine", k.name), os.Remove(own))
		}
	}
	return os.Remove(archive)
}

// build builds programs from source, all of them in one run of the compiler.
func (p *preparation) build(ctx context.Context, missing []kind) error {
	if len(missing) == 0 {
		return nil
	}
	step := p.report.Start(fmt.Sprintf("build %s from source, once", strings.Join(names(missing), ", ")))
	if err := p.buildAll(ctx, missing, step); err != nil {
		step.Fail()
		return fmt.Errorf("build %s: %w", strings.Join(names(missing), ", "), err)
	}
	step.Done("")
	return nil
}

func (p *preparation) buildAll(ctx context.Context, missing []kind, step Step) error {
	work, err := os.MkdirTemp(p.cache, ".build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := buildSources(ctx, p.checkout, p.set.Kubernetes, work, missing, step); err != nil {
		return err
	}
	for _, k := range missing {
		own, err := p.own(k)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(work, k.source.binary()), own); err != nil {
			return err
		}
	}
	return nil
}

func names(all []kind) []string {
	names := make([]string, len(all))
	for i, k := range all {
		names[i] = k.name
	}
	return names
}
