// The chart, as an archive and as an OCI artifact, and the plain manifests.

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"
)

// The media types of a chart in a registry, which Helm defines.
const (
	chartConfigType  types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	chartContentType types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// namespace is where the plain manifests install podid.
const namespace = "podid-system"

func (b builder) chartFile() string { return b.asset("podid-" + b.number() + ".tgz") }

// chart packages the chart under the release's version and writes the artifact that `helm pull
// oci://…` understands.
func (b builder) chart(ctx context.Context) (subject, error) {
	b.say("package the chart")
	cmd := exec.CommandContext(ctx, b.helm, "package", filepath.Join(b.source, "charts/podid"),
		"--version", b.number(), "--app-version", b.number(), "--destination", filepath.Join(b.out, assetsDir))
	// Helm gives every file of the archive this time.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(b.Date.Unix(), 10))
	if _, err := output(cmd); err != nil {
		return subject{}, fmt.Errorf("package the chart: %w", err)
	}
	artifact, err := b.artifact()
	if err != nil {
		return subject{}, fmt.Errorf("build the chart's artifact: %w", err)
	}
	digest, err := artifact.Digest()
	if err != nil {
		return subject{}, fmt.Errorf("build the chart's artifact: %w", err)
	}
	if err := b.writeLayout(chartDir, artifact); err != nil {
		return subject{}, fmt.Errorf("write the chart's artifact: %w", err)
	}
	return subject{Name: chartName, Tag: b.number(), Digest: digest}, nil
}

// artifact returns the chart as a registry keeps it.
func (b builder) artifact() (v1.Image, error) {
	archive, err := os.ReadFile(b.chartFile())
	if err != nil {
		return nil, err
	}
	metadata, err := fromArchive(archive, "podid/Chart.yaml")
	if err != nil {
		return nil, err
	}
	config, err := yaml.YAMLToJSON(metadata)
	if err != nil {
		return nil, err
	}
	layer := static.NewLayer(archive, chartContentType)
	return newArtifact(config, layer, b.annotations("podid"))
}

// fromArchive returns one file of a compressed archive.
func fromArchive(archive []byte, name string) ([]byte, error) {
	plain, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	for files := tar.NewReader(plain); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("no %s in the archive", name)
		}
		if err != nil {
			return nil, err
		}
		if path.Clean(header.Name) == name {
			return io.ReadAll(files)
		}
	}
}

// manifests renders the chart for people who use no Helm, once for each mode.
func (b builder) manifests(ctx context.Context) error {
	for _, mode := range []string{"standard", "managed"} {
		b.say("render the manifests for mode %s", mode)
		// Hooks belong to commands of Helm.
		out, err := output(exec.CommandContext(ctx, b.helm, "template", "podid", b.chartFile(),
			"--namespace", namespace, "--include-crds", "--no-hooks", "--set", "operationMode="+mode))
		if err != nil {
			return fmt.Errorf("render the manifests for mode %s: %w", mode, err)
		}
		text := fmt.Sprintf(manifestHead, b.Version, mode, namespace) + strings.TrimLeft(string(out), "\n")
		if err := os.WriteFile(b.asset("podid-"+mode+".yaml"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write the manifests for mode %s: %w", mode, err)
		}
	}
	return nil
}

// NMI uses the node's network, which only the level privileged allows.
const manifestHead = `# podid %s, mode %s, rendered from its Helm chart. Apply it with
# kubectl apply --server-side, because CRDs are too large for the annotation of kubectl apply.
apiVersion: v1
kind: Namespace
metadata:
  name: %s
  labels:
    pod-security.kubernetes.io/enforce: privileged
`
