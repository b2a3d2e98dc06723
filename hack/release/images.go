// The images, as OCI layouts with an index for every platform.

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/podid-io/podid/internal/sandbox/image"
)

// product is one image: the packages of its programs, the first of which it runs.
type product struct {
	name, title string
	packages    []string
}

func products() []product {
	return []product{
		{"mic", "podid's controller", []string{"./cmd/mic"}},
		{"nmi", "podid's node agent", []string{"./cmd/nmi", "./cmd/nmi-holder"}},
		{"demo", "An application that asks for a token", []string{"./test/demo"}},
	}
}

// program is a compiled program of an image.
type program struct {
	name, file string
	platform   platform
}

// images builds every image and its SBOM.
func (b builder) images(ctx context.Context) ([]subject, error) {
	var subjects []subject
	for _, p := range products() {
		index, programs, err := b.index(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("build image %s: %w", p.name, err)
		}
		digest, err := index.Digest()
		if err != nil {
			return nil, fmt.Errorf("build image %s: %w", p.name, err)
		}
		if err := b.writeLayout(filepath.Join(imagesDir, p.name), index); err != nil {
			return nil, fmt.Errorf("write image %s: %w", p.name, err)
		}
		s := subject{Name: p.name, Tag: b.number(), Digest: digest}
		if err := b.sbom(s, programs); err != nil {
			return nil, fmt.Errorf("write the SBOM of image %s: %w", p.name, err)
		}
		subjects = append(subjects, s)
	}
	return subjects, nil
}

// index compiles a product for every platform and returns the index of its images.
func (b builder) index(ctx context.Context, p product) (v1.ImageIndex, []program, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var programs []program
	for _, at := range b.limit(imagePlatforms()) {
		spec := image.Spec{Architecture: at.Arch, Created: b.Date, Labels: b.annotations(p.title)}
		for _, pkg := range p.packages {
			file, err := b.compile(ctx, pkg, at)
			if err != nil {
				return nil, nil, err
			}
			name := filepath.Base(pkg)
			programs = append(programs, program{name, file, at})
			spec.Files = append(spec.Files, image.File{From: file, To: "/" + name})
		}
		img, err := image.Build(spec)
		if err != nil {
			return nil, nil, err
		}
		// The OCI types: a registry may refuse an index of one kind with images of the other.
		img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: at.OS, Architecture: at.Arch}},
		})
	}
	annotated, ok := mutate.Annotations(index, b.annotations(p.title)).(v1.ImageIndex)
	if !ok {
		return nil, nil, fmt.Errorf("annotate the index: it is a %T", index)
	}
	return annotated, programs, nil
}

// annotations are the standard ones of OCI. Images have them as labels, too.
func (b builder) annotations(title string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    title,
		"org.opencontainers.image.version":  b.number(),
		"org.opencontainers.image.revision": b.revision(),
		"org.opencontainers.image.created":  b.Date.Format(time.RFC3339),
		"org.opencontainers.image.source":   "https://" + project,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

// tagAnnotation names an entry of a layout, as the image layout specification says.
const tagAnnotation = "org.opencontainers.image.ref.name"

// writeLayout writes an image or an index as the only entry of a layout, under the release's
// number.
func (b builder) writeLayout(folder string, what mutate.Appendable) error {
	at, err := layout.Write(filepath.Join(b.out, folder), empty.Index)
	if err != nil {
		return err
	}
	named := layout.WithAnnotations(map[string]string{tagAnnotation: b.number()})
	switch what := what.(type) {
	case v1.ImageIndex:
		return at.AppendIndex(what, named)
	case v1.Image:
		return at.AppendImage(what, named)
	}
	return fmt.Errorf("neither an image nor an index: %T", what)
}
