// Package clients builds the programs in the folders below, which request tokens as applications
// with real Azure SDKs do, and keeps them in a folder outside the checkout. They have no arguments
// and read from the environment what to request:
//
//	RESOURCE       the resource, without /.default
//	CLIENT_ID, OBJECT_ID or RESOURCE_ID   the identity; without any, the default one
//	DEFAULT_CHAIN  use the library's DefaultAzureCredential
//	SHOW_TOKEN     print the token, too
//
// They print one line of JSON (client, clientID, audience, milliseconds, expiresIn, token), or
// write the error to standard error and exit with 1.
//
// Building needs the network: Go's module proxy, npm's registry and Debian's packages.
package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kit has the folder of the clients' sources and that of the built programs.
type Kit struct{ Source, Cache string }

// Go builds a client in Go, in its own module, and returns the path of the program.
func (k Kit) Go(ctx context.Context, name string) (string, error) {
	if err := os.MkdirAll(k.Cache, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(k.Cache, name)
	part := fmt.Sprintf("%s.%d.part", program, os.Getpid()) // another process may be running the old one
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if err := run(ctx, filepath.Join(k.Source, name), env, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", part, "."); err != nil {
		_ = os.Remove(part)
		return "", err
	}
	return program, os.Rename(part, program)
}

// once fills a folder, which appears when it is complete.
func once(dir string, fill func(part string) error) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), ".part-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(part) }()
	if err := fill(part); err != nil {
		return err
	}
	if err := os.Chmod(part, 0o755); err != nil {
		return err
	}
	err = os.Rename(part, dir)
	if _, exists := os.Stat(dir); err != nil && exists == nil {
		return nil // another process was faster
	}
	return err
}

// run runs a build program. Its output is part of the error.
func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(out, 20))
	}
	return nil
}

func lastLines(text []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}
