// The images that every node has from its start.

package sandbox

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/podid-io/podid/internal/sandbox/image"
	"github.com/podid-io/podid/internal/sandbox/node"
	"github.com/podid-io/podid/internal/sandbox/programs"
)

// images puts the pause image and the user's archives into the folder that nodes import from.
func (b *build) images(ctx context.Context) error {
	if err := os.MkdirAll(b.layout.Images(), 0o755); err != nil {
		return fmt.Errorf("collect images: %w", err)
	}
	pause, err := programs.Pause(ctx, b.sandbox.getenv)
	if err != nil {
		return err
	}
	spec := image.Spec{Ref: node.PauseImage, Files: []image.File{{From: pause, To: "/pause"}}}
	if err := image.Write(spec, filepath.Join(b.layout.Images(), "pause.tar")); err != nil {
		return err
	}
	for _, archive := range b.options.Images {
		if err := copyFile(archive, filepath.Join(b.layout.Images(), filepath.Base(archive))); err != nil {
			return fmt.Errorf("collect image %s: %w", archive, err)
		}
	}
	return nil
}

// copyFile makes a hard link if possible, because archives are large.
func copyFile(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
