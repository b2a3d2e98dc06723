// Package clients builds the programs below this folder, which ask for tokens as applications with
// real Azure SDKs do, and keeps them in a folder outside of the checkout. Each runs without
// arguments, and takes from its environment what to ask:
//
//	RESOURCE       what the token is for, without /.default
//	CLIENT_ID, OBJECT_ID or RESOURCE_ID   which identity; without any, the default one
//	DEFAULT_CHAIN  take the library's DefaultAzureCredential instead
//	SHOW_TOKEN     print the token, too
//
// It prints one line of JSON (client, clientID, audience, milliseconds, expiresIn, token), or what
// went wrong on standard error and ends with exit code 1.
//
// Building takes the network: Go's module proxy, npm's registry, Debian's packages.
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

// Kit knows where the clients' sources are, and where what was built is kept.
type Kit struct{ Source, Cache string }

// Go builds a client in Go, in the module that it belongs to, and returns the program.
func (k Kit) Go(ctx context.Context, name string) (string, error) {
	if err := os.MkdirAll(k.Cache, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(k.Cache, name)
	part := fmt.Sprintf("%s.%d.part", program, os.Getpid()) // somebody else may run the old one
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if err := run(ctx, filepath.Join(k.Source, name), env, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", part, "."); err != nil {
		_ = os.Remove(part)
		return "", err
	}
	return program, os.Rename(part, program)
}

// once fills a folder, which appears only when it is complete.
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
		return nil // somebody else was faster
	}
	return err
}

// run runs a program that builds something; what it said is part of the error.
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
