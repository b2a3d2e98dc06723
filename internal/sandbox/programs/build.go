// Kubernetes and etcd, built from their pinned source.

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
	"path/filepath"
	"strings"
	"time"
)

// source says where a program is built from: a module in this checkout that pins a version, and a package of it.
type source struct {
	module, pinned, pkg string
}

func kubernetes(name string) *source {
	return &source{module: kubernetesModule, pinned: "k8s.io/kubernetes", pkg: "k8s.io/kubernetes/cmd/" + name}
}

// version reads the pinned version out of the module's go.mod.
func (s *source) version(checkout string) (string, error) {
	gomod, err := os.ReadFile(filepath.Join(checkout, s.module, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read the pinned version of %s: %w", s.pinned, err)
	}
	version, err := required(string(gomod), s.pinned)
	if err != nil {
		return "", fmt.Errorf("read the pinned version of %s: %w", s.pinned, err)
	}
	return version, nil
}

// build builds the program into file.
func (s *source) build(ctx context.Context, checkout, version, file string, step Step) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("the go command is not in PATH: install Go (https://go.dev/dl), or set KUBEBUILDER_ASSETS")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	part := file + ".part"
	err := goRun(ctx, filepath.Join(checkout, s.module), step, "-mod=readonly", "-trimpath",
		"-ldflags="+linkFlags(s.pinned, version), "-o", part, s.pkg)
	if err != nil {
		_ = os.Remove(part)
		return err
	}
	return os.Rename(part, file)
}

// goRun runs a static build, given by the arguments of `go build -v` with the package last, and tells, when there is
// somebody to tell, how far it is.
func goRun(ctx context.Context, dir string, step Step, args ...string) error {
	total := 0
	if step != nil {
		total = countPackages(ctx, dir, args)
	}
	cmd := goCommand(ctx, dir, append([]string{"build", "-v"}, args...)...)
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

// countPackages is how many packages a build would compile with nothing in Go's cache, or 0 when that cannot be told.
func countPackages(ctx context.Context, dir string, args []string) int {
	list := []string{"list", "-deps"}
	for _, a := range args {
		if strings.HasPrefix(a, "-mod") {
			list = append(list, a)
		}
	}
	out, err := goCommand(ctx, dir, append(list, args[len(args)-1])...).Output()
	if err != nil {
		return 0 // the build itself will say why
	}
	return bytes.Count(out, []byte("\n"))
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes its temporary files then
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// follow counts the packages that `go build -v` names, one per line, and keeps the last lines for an error message.
func follow(out io.Reader, far func(int)) []string {
	const keep = 20
	var last []string
	built := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		built++
		far(built)
		last = append(last, lines.Text())
		if len(last) > keep {
			last = last[1:]
		}
	}
	return last
}

// linkFlags make Kubernetes' programs say the version that they are; without it they say v0.0.0 and refuse each other.
func linkFlags(pinned, version string) string {
	flags := []string{"-s", "-w"}
	if pinned != "k8s.io/kubernetes" {
		return strings.Join(flags, " ")
	}
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	flags = append(flags,
		"-X k8s.io/component-base/version.gitVersion="+version,
		"-X k8s.io/component-base/version.gitTreeState=clean",
		"-X k8s.io/client-go/pkg/version.gitVersion="+version)
	if len(parts) == 3 {
		flags = append(flags,
			"-X k8s.io/component-base/version.gitMajor="+parts[0],
			"-X k8s.io/component-base/version.gitMinor="+parts[1])
	}
	return strings.Join(flags, " ")
}
