// The pause program: the first container of every pod.
package programs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Pause returns the file of the pause program, built when its source is newer than what the cache holds.
func Pause(ctx context.Context, getenv func(string) string) (string, error) {
	cache, err := Cache(getenv)
	if err != nil {
		return "", err
	}
	source, err := Source()
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
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("build pause: Go is not in PATH: install it (https://go.dev/dl)")
	}
	part := fmt.Sprintf("%s.%d", file, os.Getpid())
	err = run(ctx, source, []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"},
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", part, "./hack/pause")
	if err != nil {
		return "", fmt.Errorf("build pause: %w", err)
	}
	if err := os.Rename(part, file); err != nil {
		return "", fmt.Errorf("build pause: %w", err)
	}
	return file, nil
}
