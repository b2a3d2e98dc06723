// Kubernetes, built from the pinned source.
package programs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kubernetes are the programs in the order to build them: the biggest first, so that the rest finds most packages built.
var kubernetes = []string{ //nolint:gochecknoglobals // a constant list
	"kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl",
}

// buildKubernetes builds one program into file.
func buildKubernetes(ctx context.Context, source, version, name, file string, step Step) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("build %s: Go is not in PATH: install it (https://go.dev/dl), or set KUBEBUILDER_ASSETS", name)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	part := file + ".part"
	err := goRun(ctx, filepath.Join(source, kubernetesModule), step, "build", "-v", "-mod=readonly", "-trimpath",
		"-ldflags="+kubernetesLinkFlags(version), "-o", part, "k8s.io/kubernetes/cmd/"+name)
	if err != nil {
		_ = os.Remove(part)
		return fmt.Errorf("build %s: %w", name, err)
	}
	if err := os.Rename(part, file); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	return nil
}

// goRun runs the go command for a static build and tells, when there is somebody to tell, how far it is.
func goRun(ctx context.Context, dir string, step Step, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes its temporary files then
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	last := follow(out, func(built int) {
		if step != nil {
			step.Far("%d packages compiled", built)
		}
	})
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
	}
	return nil
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

// kubernetesLinkFlags makes the programs say the version that they are; without it they say v0.0.0 and refuse each other.
func kubernetesLinkFlags(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	flags := []string{
		"-s", "-w",
		"-X k8s.io/component-base/version.gitVersion=" + version,
		"-X k8s.io/component-base/version.gitTreeState=clean",
		"-X k8s.io/client-go/pkg/version.gitVersion=" + version,
	}
	if len(parts) == 3 {
		flags = append(flags,
			"-X k8s.io/component-base/version.gitMajor="+parts[0],
			"-X k8s.io/component-base/version.gitMinor="+parts[1])
	}
	return strings.Join(flags, " ")
}
