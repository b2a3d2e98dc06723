// Package image builds container images without a container engine: static programs on an empty
// base, written as an archive that `docker load` and `ctr images import` read. The same input gives
// the same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// nonroot is the default user of images. It has no passwd entry and owns nothing.
const nonroot = "65532:65532"

// File is one program or file of an image.
type File struct {
	// From is a file on this machine, To its absolute path in the image.
	From, To string
}

// Spec describes an image.
type Spec struct {
	// Ref is its full name with tag, for example docker.io/podid/mic:dev.
	Ref string
	// Files go into one layer; the first one is the entrypoint.
	Files []File
	// User is "uid:gid", or empty for a user without permissions.
	User string
	// Architecture is the one of the programs, or empty for this machine's.
	Architecture string
	// Created is the image's time, or zero for 1970.
	Created time.Time
	// Labels describe the image to people and tools.
	Labels map[string]string
}

// Write builds the image and writes it to an archive, which appears only when it is complete.
func Write(s Spec, archive string) error {
	tag, err := name.NewTag(s.Ref, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	img, err := Build(s)
	if err != nil {
		return fmt.Errorf("build image %s: %w", s.Ref, err)
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return fmt.Errorf("write image %s: %w", s.Ref, err)
	}
	part := fmt.Sprintf("%s.%d.part", archive, os.Getpid()) // unique, so that two builds may run at once
	if err := tarball.WriteToFile(part, tag, img); err != nil {
		_ = os.Remove(part)
		return fmt.Errorf("write image %s: %w", s.Ref, err)
	}
	if err := os.Rename(part, archive); err != nil {
		return fmt.Errorf("write image %s: %w", s.Ref, err)
	}
	return nil
}

// Build builds the image. It ignores Spec.Ref.
func Build(s Spec) (v1.Image, error) {
	if len(s.Files) == 0 {
		return nil, errors.New("it has no program")
	}
	content, err := layerTar(s.Files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	s.configure(config)
	return mutate.ConfigFile(img, config)
}

// configure fills in what a container engine reads.
func (s Spec) configure(config *v1.ConfigFile) {
	config.OS, config.Architecture = "linux", cmp.Or(s.Architecture, runtime.GOARCH)
	config.Created = v1.Time{Time: epoch()}
	if !s.Created.IsZero() {
		config.Created = v1.Time{Time: s.Created.UTC()}
	}
	config.Config.Entrypoint = []string{s.Files[0].To}
	config.Config.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:/"}
	config.Config.User = cmp.Or(s.User, nonroot)
	config.Config.Labels = s.Labels
}

// layerTar packs the files and their parent folders, sorted by name and without times, so that the
// same files give the same layer.
func layerTar(files []File) ([]byte, error) {
	entries := map[string]entry{"tmp/": {header: dir("tmp/", 0o1777)}}
	for _, f := range files {
		e, err := newEntry(f)
		if err != nil {
			return nil, err
		}
		entries[e.header.Name] = e
		for d := path.Dir(e.header.Name); d != "."; d = path.Dir(d) {
			if _, ok := entries[d+"/"]; !ok {
				entries[d+"/"] = entry{header: dir(d+"/", 0o755)}
			}
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if err := entries[name].write(w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// entry is one entry of a layer; from is empty for a folder.
type entry struct {
	header tar.Header
	from   string
}

func newEntry(f File) (entry, error) {
	if !path.IsAbs(f.To) || path.Clean(f.To) != f.To || f.To == "/" {
		return entry{}, fmt.Errorf("%q is not a clean absolute path", f.To)
	}
	info, err := os.Stat(f.From)
	if err != nil {
		return entry{}, err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	return entry{from: f.From, header: tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.To, "/"), Size: info.Size(), Mode: mode, ModTime: epoch(), Format: tar.FormatPAX,
	}}, nil
}

func (e entry) write(w *tar.Writer) error {
	if err := w.WriteHeader(&e.header); err != nil || e.from == "" {
		return err
	}
	content, err := os.ReadFile(e.from)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}

func dir(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: epoch(), Format: tar.FormatPAX}
}

// epoch is the time of every entry, so that a build does not depend on when it was made.
func epoch() time.Time { return time.Unix(0, 0).UTC() }
