// Compiling the programs.

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// platform is an operating system and an architecture.
type platform struct{ OS, Arch string }

func (p platform) String() string { return p.OS + "/" + p.Arch }

// The platforms of images, and those of podid.
func imagePlatforms() []platform { return []platform{{"linux", "amd64"}, {"linux", "arm64"}} }

func clientPlatforms() []platform {
	return []platform{
		{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"},
	}
}

// parsePlatform reads OS/ARCHITECTURE.
func parsePlatform(text string) (platform, error) {
	system, arch, _ := strings.Cut(text, "/")
	p := platform{system, arch}
	if !slices.Contains(clientPlatforms(), p) {
		return p, fmt.Errorf("%q is not a platform of a release: use one of %v", text, clientPlatforms())
	}
	return p, nil
}

// limit returns the platforms to build: all of them, or the only one that was asked for.
func (b builder) limit(all []platform) []platform {
	if b.only == (platform{}) {
		return all
	}
	return slices.DeleteFunc(all, func(p platform) bool { return p != b.only })
}

// compilation is one program to compile.
type compilation struct {
	// source is the folder of the module; pkg is a package in it, such as ./cmd/mic.
	source, pkg, file string
	platform          platform
	flags             []string
	// toolchain is the version of Go, such as go1.26.8. Empty means the one that runs.
	toolchain string
}

// compile builds a program of the checkout into the folder bin of the results, unless another part
// of the release has it already.
func (b builder) compile(ctx context.Context, pkg string, p platform, link ...string) (string, error) {
	name := filepath.Base(pkg)
	if p.OS == "windows" {
		name += ".exe"
	}
	file := filepath.Join(b.out, "bin", p.OS+"_"+p.Arch, name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	b.say("compile %s for %s", pkg, p)
	err := b.goBuild(ctx, compilation{
		source: b.source, pkg: pkg, file: file, platform: p, toolchain: b.Go,
		flags: []string{"-ldflags=" + strings.Join(append(b.linkFlags(), link...), " ")},
	})
	if err != nil {
		return "", fmt.Errorf("compile %s for %s: %w", pkg, p, err)
	}
	return file, nil
}

// linkFlags strips symbols and sets what --version prints.
func (b builder) linkFlags() []string {
	const to = "-X " + project + "/internal/build."
	return []string{
		"-s", "-w", to + "version=" + b.Version, to + "commit=" + b.revision(), to + "date=" + b.Date.Format(time.RFC3339),
	}
}

// goBuild runs a static build without anything of this machine in it: no paths, no settings of its
// user, and no state of a repository, which would differ between a tag and a later change.
func goBuild(ctx context.Context, c compilation) error {
	file, err := filepath.Abs(c.file)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-o", file}, c.flags...), c.pkg)...)
	cmd.Dir = c.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOENV=off", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off",
		"GOOS="+c.platform.OS, "GOARCH="+c.platform.Arch, "GOAMD64=v1", "GOARM64=v8.0")
	if c.toolchain != "" {
		cmd.Env = append(cmd.Env, "GOTOOLCHAIN="+c.toolchain)
	}
	_, err = output(cmd)
	return err
}
