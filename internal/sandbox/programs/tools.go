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

const helmPackage = "helm.sh/helm/v4/cmd/helm"

// prebuilt returns a program of this podid's kit. No other folder's programs are run: those in the
// folder bin of a checkout may be older than its source.
func prebuilt(source, name string) (string, bool) {
	if k, err := ownKit(os.Getenv); err != nil || k.dir != source {
		return "", false
	}
	file := filepath.Join(source, "bin", name)
	_, err := os.Stat(file)
	return file, err == nil
}

// Helm returns the file of the helm program, built once per version from the checkout's tools
// module. `make` keeps its tools in the same place.
func Helm(ctx context.Context, getenv func(string) string, report *progress.Reporter) (string, error) {
	source, cache, err := places(getenv)
	if err != nil {
		return "", err
	}
	if file, ok := prebuilt(source, "helm"); ok {
		return file, nil
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
	err = goBuild(ctx, source, file, step, helmPackage, "-modfile=go.tools.mod")
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
	if file, ok := prebuilt(source, "pause"); ok {
		return file, nil
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

// Bin returns the folder with the programs mic, nmi and nmi-holder: the one of the running podid,
// or that of the kit.
func Bin() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find podid itself: %w", err)
	}
	source, err := Source()
	if err != nil {
		return "", err
	}
	if file, ok := prebuilt(source, "mic"); ok {
		return filepath.Dir(file), nil
	}
	return filepath.Dir(self), nil
}

// Build builds a package of this checkout, such as ./test/demo, into a file. From a kit it copies
// the program.
func Build(ctx context.Context, pkg, file string, step Step) error {
	source, err := Source()
	if err != nil {
		return err
	}
	if built, ok := prebuilt(source, filepath.Base(pkg)); ok {
		if err := copyProgram(built, file); err != nil {
			return fmt.Errorf("copy %s: %w", built, err)
		}
		return nil
	}
	if err := goBuild(ctx, source, file, step, pkg); err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}

func copyProgram(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return writeProgram(to, f)
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
