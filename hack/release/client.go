// podid for people's own machines: archives, and the manifest that krew reads.

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// member is one file of an archive.
type member struct {
	name    string
	content []byte
	mode    fs.FileMode
}

// archive is a finished archive of podid for one platform.
type archive struct {
	platform platform
	name     string
}

// commandLine builds the sandbox's kits, podid for every platform, and krew's manifest.
func (b builder) commandLine(ctx context.Context) error {
	license, err := os.ReadFile(filepath.Join(b.source, "LICENSE"))
	if err != nil {
		return fmt.Errorf("package podid: %w", err)
	}
	kits, err := b.kits(ctx)
	if err != nil {
		return err
	}
	var archives []archive
	for _, p := range b.limit(clientPlatforms()) {
		file, err := b.compile(ctx, "./cmd/podid", p, kits[p])
		if err != nil {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("package podid for %s: %w", p, err)
		}
		a := archive{p, fmt.Sprintf("podid_%s_%s_%s%s", b.number(), p.OS, p.Arch, extension(p))}
		packed, err := b.pack(p, []member{{"LICENSE", license, 0o644}, {filepath.Base(file), content, 0o755}})
		if err != nil {
			return fmt.Errorf("package podid for %s: %w", p, err)
		}
		if err := os.WriteFile(b.asset(a.name), packed, 0o644); err != nil {
			return fmt.Errorf("package podid for %s: %w", p, err)
		}
		archives = append(archives, a)
	}
	return b.krew(archives)
}

func extension(p platform) string {
	if p.OS == "windows" {
		return ".zip"
	}
	return ".tar.gz"
}

// pack writes an archive of the kind that the platform's users expect. Every file has the commit's
// time.
func (b builder) pack(p platform, members []member) ([]byte, error) {
	var out bytes.Buffer
	if p.OS == "windows" {
		err := packZip(&out, b.Date, members)
		return out.Bytes(), err
	}
	packed, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(packed)
	for _, m := range members {
		header := tar.Header{
			Typeflag: tar.TypeReg, Name: m.name, Size: int64(len(m.content)), Mode: int64(m.mode), ModTime: b.Date, Format: tar.FormatPAX,
		}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(m.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err = packed.Close()
	return out.Bytes(), err
}

func packZip(out io.Writer, date time.Time, members []member) error {
	w := zip.NewWriter(out)
	for _, m := range members {
		header := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: date}
		header.SetMode(m.mode)
		f, err := w.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := f.Write(m.content); err != nil {
			return err
		}
	}
	return w.Close()
}

// krew writes the manifest of the plugin podid, which krew installs as kubectl-podid.
func (b builder) krew(archives []archive) error {
	var platforms []map[string]any
	for _, a := range archives {
		digest, err := fileDigest(b.asset(a.name))
		if err != nil {
			return fmt.Errorf("write krew's manifest: %w", err)
		}
		bin := "podid"
		if a.platform.OS == "windows" {
			bin += ".exe"
		}
		platforms = append(platforms, map[string]any{
			"selector": map[string]any{"matchLabels": map[string]string{"os": a.platform.OS, "arch": a.platform.Arch}},
			"uri":      "https://" + project + "/releases/download/" + b.Version + "/" + a.name,
			"sha256":   digest.Hex,
			"bin":      bin,
		})
	}
	content, err := yaml.Marshal(map[string]any{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
		"kind":       "Plugin",
		"metadata":   map[string]string{"name": "podid"},
		"spec": map[string]any{
			"version": b.Version, "homepage": "https://" + project, "platforms": platforms,
			"shortDescription": "Azure identities for pods",
			"description": "Federates Azure identities with a cluster, finishes an uninstall of podid or AAD Pod Identity,\n" +
				"and runs an emulated Azure and, on Linux, a whole cluster on one machine.\n",
		},
	})
	if err != nil {
		return fmt.Errorf("write krew's manifest: %w", err)
	}
	if err := os.WriteFile(b.asset("krew.yaml"), content, 0o644); err != nil {
		return fmt.Errorf("write krew's manifest: %w", err)
	}
	return nil
}
