// The kit of a sandbox: what `podid sandbox demo` needs where there is no checkout
// (internal/sandbox/programs/kit.go). podid knows its checksum, so it is built before podid.

package main

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kits builds the kit of every platform that runs sandboxes, and returns the flag of the linker
// that makes podid know it.
func (b builder) kits(ctx context.Context) (map[platform]string, error) {
	flags := map[platform]string{}
	for _, p := range b.limit(imagePlatforms()) {
		packed, err := b.kit(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("build the sandbox's kit for %s: %w", p, err)
		}
		if err := os.WriteFile(b.asset(fmt.Sprintf("podid-sandbox_%s_%s_%s.tar.gz", b.number(), p.OS, p.Arch)), packed, 0o644); err != nil {
			return nil, fmt.Errorf("write the sandbox's kit for %s: %w", p, err)
		}
		sum := sha512.Sum512(packed)
		flags[p] = "-X " + project + "/internal/sandbox/programs.kitChecksum=" + hex.EncodeToString(sum[:])
	}
	return flags, nil
}

func (b builder) kit(ctx context.Context, p platform) ([]byte, error) {
	files, err := b.kitPrograms(ctx, p)
	if err != nil {
		return nil, err
	}
	members := []member{}
	add := func(name, file string, mode fs.FileMode) error {
		content, err := os.ReadFile(file)
		members = append(members, member{name, content, mode})
		return err
	}
	for _, file := range files {
		if err := add("bin/"+filepath.Base(file), file, 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"LICENSE", "hack/kubernetes/go.mod", "hack/kubernetes/go.sum"} {
		if err := add(name, filepath.Join(b.source, name), 0o644); err != nil {
			return nil, err
		}
	}
	chart, err := git(ctx, b.source, "ls-files", "-z", "--", "charts/podid") // not what git ignores
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimRight(chart, "\x00"), "\x00") {
		if err := add(name, filepath.Join(b.source, name), 0o644); err != nil {
			return nil, err
		}
	}
	return b.pack(p, members)
}

// kitPrograms returns the programs of a kit: those of the images, the pause program, and helm and
// etcd in the versions that the checkout pins.
func (b builder) kitPrograms(ctx context.Context, p platform) ([]string, error) {
	var files []string
	for _, pkg := range []string{"./cmd/mic", "./cmd/nmi", "./cmd/nmi-holder", "./test/demo", "./hack/pause"} {
		file, err := b.compile(ctx, pkg, p)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	for _, c := range []compilation{
		{source: b.source, pkg: "helm.sh/helm/v4/cmd/helm", file: "helm", flags: []string{"-modfile=go.tools.mod"}},
		{source: filepath.Join(b.source, "hack/kubernetes"), pkg: "go.etcd.io/etcd/server/v3", file: "etcd"},
	} {
		b.say("compile %s for %s", c.pkg, p)
		c.file, c.platform, c.toolchain = filepath.Join(b.out, "bin", p.OS+"_"+p.Arch, c.file), p, b.Go
		c.flags = append(c.flags, "-ldflags=-s -w")
		if err := b.goBuild(ctx, c); err != nil {
			return nil, fmt.Errorf("compile %s: %w", c.pkg, err)
		}
		files = append(files, c.file)
	}
	return files, nil
}
