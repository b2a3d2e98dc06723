// Pushing a release's images and chart to a registry.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// chartName is the chart's place below a registry.
const chartName = "charts/podid"

// push writes every image and the chart under the release's number, and asks the registry for each
// by its digest. Credentials are those of `docker login`.
func push(ctx context.Context, from, registry string, out io.Writer) error {
	built, err := readSummary(from)
	if err != nil {
		return err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	refs := make([]name.Reference, len(built.Subjects))
	for i, s := range built.Subjects {
		if refs[i], err = name.ParseReference(strings.TrimSuffix(registry, "/") + "/" + s.Name + ":" + s.Tag); err != nil {
			return fmt.Errorf("push %s: %w", s.Name, err)
		}
		if err := isFree(refs[i], s.Digest, options); built.Tagged && err != nil {
			return fmt.Errorf("push %s: %w", refs[i], err)
		}
	}
	for i, s := range built.Subjects {
		ref, folder := refs[i], filepath.Join(from, imagesDir, s.Name)
		if s.Name == chartName {
			folder = filepath.Join(from, chartDir)
		}
		if err := pushLayout(folder, ref, s.Digest, options); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		if _, err := fmt.Fprintf(out, "pushed %s@%s\n", ref, s.Digest); err != nil {
			return err
		}
	}
	return nil
}

// readSummary returns what a whole release consists of.
func readSummary(from string) (built summary, err error) {
	content, err := os.ReadFile(filepath.Join(from, assetsDir, summaryFile))
	if err != nil {
		return built, fmt.Errorf("read what was built: %w; run `make release` first", err)
	}
	if err := json.Unmarshal(content, &built); err != nil {
		return built, fmt.Errorf("read what was built: %w", err)
	}
	if built.Partial {
		return built, errors.New("this release was built with -only, so it lacks platforms: run `make release` without it")
	}
	return built, nil
}

// isFree fails if a tag names something else already: who has pulled a release must get the same
// again.
func isFree(ref name.Reference, digest v1.Hash, options []remote.Option) error {
	there, err := remote.Head(ref, options...)
	if answer, ok := errors.AsType[*transport.Error](err); ok && answer.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether it was pushed before: %w", err)
	}
	if there.Digest != digest {
		return fmt.Errorf("it was pushed before, as %s, and what was built now is %s: a released tag is not moved", there.Digest, digest)
	}
	return nil
}

// pushLayout pushes the entry of a layout that has the digest.
func pushLayout(folder string, ref name.Reference, digest v1.Hash, options []remote.Option) error {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != digest {
		return fmt.Errorf("%s does not hold %s alone: run `make release` again", folder, digest)
	}
	if manifest.Manifests[0].MediaType.IsIndex() {
		var image v1.ImageIndex
		if image, err = index.ImageIndex(digest); err == nil {
			err = remote.WriteIndex(ref, image, options...)
		}
	} else {
		var image v1.Image
		if image, err = index.Image(digest); err == nil {
			err = remote.Write(ref, image, options...)
		}
	}
	if err != nil {
		return err
	}
	if _, err := remote.Head(ref.Context().Digest(digest.String()), options...); err != nil {
		return fmt.Errorf("read it back by its digest: %w", err)
	}
	return nil
}
