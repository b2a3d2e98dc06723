// Builds with the go command, of Kubernetes and etcd in their pinned versions among others.

package programs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// source is the package that a program is built from. The module hack/kubernetes of this checkout
// pins its version.
type source struct {
	// folder is where the cache keeps the programs, below it one folder per version.
	folder string
	// pinned is the module that go.mod requires.
	pinned, pkg string
}

func kubernetes(name string) *source {
	return &source{folder: "kubernetes", pinned: "k8s.io/kubernetes", pkg: "k8s.io/kubernetes/cmd/" + name}
}

// version returns the version that the checkout's go.mod pins.
func (s *source) version(checkout string) (string, error) {
	gomod, err := os.ReadFile(filepath.Join(checkout, kubernetesModule, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read the pinned version of %s: %w", s.pinned, err)
	}
	version, err := required(string(gomod), s.pinned)
	if err != nil {
		return "", fmt.Errorf("read the pinned version of %s: %w", s.pinned, err)
	}
	return version, nil
}

// binary returns the name that `go build` gives the program: the last element of its path that is
// not a major version.
func (s *source) binary() string {
	return path.Base(regexp.MustCompile(`/v[0-9]+$`).ReplaceAllString(s.pkg, ""))
}

// buildSources builds programs into a folder, under the names of source.binary.
func buildSources(ctx context.Context, checkout, version, dir string, all []kind, step Step) error {
	args := []string{"-mod=readonly", "-trimpath", "-ldflags=" + linkFlags(version), "-o", dir + "/"}
	packages := make([]string, len(all))
	for i, k := range all {
		packages[i] = k.source.pkg
	}
	return goRun(ctx, filepath.Join(checkout, kubernetesModule), step, args, packages...)
}

// goRun runs a static build with flags of `go build`, and reports its progress to step unless that
// is nil.
func goRun(ctx context.Context, dir string, step Step, flags []string, packages ...string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("the go command is not in PATH: install Go (https://go.dev/dl)")
	}
	total := 0
	if step != nil {
		total = countPackages(ctx, dir, flags, packages)
	}
	cmd := goCommand(ctx, dir, slices.Concat([]string{"build", "-v"}, flags, packages)...)
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	last := follow(out, func(built int) {
		switch {
		case total > 0:
			step.Far("%d of at most %d packages compiled", built, total)
		case step != nil:
			step.Far("%d packages compiled", built)
		}
	})
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
	}
	return nil
}

// countPackages returns how many packages a build compiles when Go's cache is empty, or 0 if that
// cannot be found out.
func countPackages(ctx context.Context, dir string, flags, packages []string) int {
	list := []string{"list", "-deps"}
	for _, f := range flags {
		if strings.HasPrefix(f, "-mod") {
			list = append(list, f)
		}
	}
	out, err := goCommand(ctx, dir, append(list, packages...)...).Output()
	if err != nil {
		return 0 // the build itself reports the error
	}
	return bytes.Count(out, []byte("\n"))
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets it remove its temporary files
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// follow counts the packages that `go build -v` prints, one per line, and returns the last lines
// for an error message.
func follow(out io.Reader, report func(built int)) []string {
	const keep = 20
	var last []string
	built := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		built++
		report(built)
		last = append(last, lines.Text())
		if len(last) > keep {
			last = last[1:]
		}
	}
	return last
}

// linkFlags return the linker's flags that give Kubernetes' programs their version. Without them
// they are v0.0.0 and refuse to work with each other. etcd ignores them.
func linkFlags(version string) string {
	flags := []string{
		"-s", "-w",
		"-X k8s.io/component-base/version.gitVersion=" + version,
		"-X k8s.io/component-base/version.gitTreeState=clean",
		"-X k8s.io/client-go/pkg/version.gitVersion=" + version,
	}
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) == 3 {
		flags = append(flags,
			"-X k8s.io/component-base/version.gitMajor="+parts[0],
			"-X k8s.io/component-base/version.gitMinor="+parts[1])
	}
	return strings.Join(flags, " ")
}
