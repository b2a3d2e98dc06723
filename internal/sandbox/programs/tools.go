// Programs of this checkout and of its tools module.

package programs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/podid-io/podid/internal/sandbox/progress"
)

// Helm returns the file of the helm program, built once per version from the checkout's tools
// module. `make` keeps its tools in the same place.
func Helm(ctx context.Context, getenv func(string) string, report *progress.Reporter) (string, error) {
	source, cache, err := places(getenv)
	if err != nil {
		return "", err
	}
	versions := sha256.New()
	for _, name := range []string{"go.tools.mod", "go.tools.sum"} {
		content, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("build helm: %w", err)
		}
		_, _ = versions.Write(content) // a hash never fails
	}
	file := filepath.Join(cache, "tools", fmt.Sprintf("%x", versions.Sum(nil))[:12], "helm")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	step := report.Start("build helm from source, once")
	err = goBuild(ctx, source, file, step, "helm.sh/helm/v4/cmd/helm", "-modfile=go.tools.mod")
	if err != nil {
		step.Fail()
		return "", fmt.Errorf("build helm: %w", err)
	}
	step.Done("")
	return file, nil
}

// Pause returns the file of the pause program, the first container of every pod, built once per
// version of its source.
func Pause(ctx context.Context, getenv func(string) string) (string, error) {
	source, cache, err := places(getenv)
	if err != nil {
		return "", err
	}
	code, err := os.ReadFile(filepath.Join(source, "hack/pause/main.go"))
	if err != nil {
		return "", fmt.Errorf("build pause: %w", err)
	}
	file := filepath.Join(cache, "pause", fmt.Sprintf("%x", sha256.Sum256(code))[:12], "pause")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := goBuild(ctx, source, file, nil, "./hack/pause"); err != nil {
		return "", fmt.Errorf("build pause: %w", err)
	}
	return file, nil
}

// Build builds a package of this checkout, such as ./cmd/mic, into a file.
func Build(ctx context.Context, pkg, file string, step Step) error {
	source, err := Source()
	if err != nil {
		return err
	}
	if err := goBuild(ctx, source, file, step, pkg); err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}

func places(getenv func(string) string) (source, cache string, err error) {
	if source, err = Source(); err != nil {
		return "", "", err
	}
	cache, err = Cache(getenv)
	return source, cache, err
}

// goBuild builds a static program; the file appears only when it is complete.
func goBuild(ctx context.Context, source, file string, step Step, pkg string, flags ...string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	part := fmt.Sprintf("%s.%d.part", file, os.Getpid())
	flags = append([]string{"-trimpath", "-ldflags=-s -w", "-o", part}, flags...)
	if err := goRun(ctx, source, step, flags, pkg); err != nil {
		_ = os.Remove(part)
		return err
	}
	return os.Rename(part, file)
}
