// Images of the programs that run as pods: the probe, and applications with real Azure SDKs.
package scenario_test

import (
	"context"
	"os"
	"path/filepath"

	"github.com/podid-io/podid/internal/sandbox/image"
	"github.com/podid-io/podid/test/clients"
)

// sdk is a client, in a folder below test/clients.
type sdk struct {
	name string
	// build builds the image and returns its archive.
	build func(context.Context, clients.Kit, sdk) (string, error)
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

func sdks() []sdk {
	return []sdk{
		{name: probe, build: goImage},
		{name: azidentity, build: goImage},
		{name: azidentity11, build: goImage},
		{name: adal, build: goImage},
		{name: nodeClient, build: nodeImage, args: []string{"/client.js"}},
	}
}

func imageOf(client string) string { return "docker.io/podid/client-" + client + ":" + clientVersion }

// goImage builds a client in Go.
func goImage(ctx context.Context, kit clients.Kit, c sdk) (string, error) {
	program, err := kit.Go(ctx, c.name)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(kit.Cache, c.name+".tar")
	return archive, image.Write(image.Spec{Ref: imageOf(c.name), Files: []image.File{{From: program, To: "/client"}}}, archive)
}

// nodeImage builds the image of the Node.js client: the official program with its shared libraries,
// and the client with the latest version of its library, bundled to one file.
func nodeImage(ctx context.Context, kit clients.Kit, c sdk) (string, error) {
	node, err := kit.Node(ctx)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(node.Dir, c.name+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	libraries, err := clients.Libraries(ctx, node.Program)
	if err != nil {
		return "", err
	}
	files := []image.File{
		{From: node.Program, To: "/usr/bin/node"}, {From: node.Scripts[clients.NodeVersions()[0]], To: "/client.js"},
	}
	for _, file := range libraries {
		files = append(files, image.File{From: file, To: file})
	}
	return archive, image.Write(image.Spec{Ref: imageOf(c.name), Files: files, Args: c.args}, archive)
}
