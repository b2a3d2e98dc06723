// The order in which a release is built.

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// project is where the project lives: releases, sources, module path.
const project = "github.com/podid-io/podid"

// The folders below the one of a release. Everything in assets goes into the release on GitHub.
const (
	assetsDir = "assets"
	imagesDir = "images"
	chartDir  = "chart"
)

// builder builds one release.
type builder struct {
	release
	// source is the checkout, out the folder to write, helm a program.
	source, out, helm string
	// goBuild compiles one program.
	goBuild func(ctx context.Context, c compilation) error
	// only is the one platform to build, or empty for all.
	only   platform
	getenv func(string) string
	log    io.Writer
}

// subject is a result that has a digest.
type subject struct {
	// Name is a file of the release or, with Tag, an image.
	Name string `json:"name"`
	Tag  string `json:"tag,omitempty"`
	// Digest is its SHA-256.
	Digest v1.Hash `json:"digest"`
}

// all builds everything into a folder that replaces the last one only when it is complete.
func (b builder) all(ctx context.Context) (err error) {
	final := b.out
	b.Partial = b.only != (platform{})
	b.out = final + ".part"
	if err := os.RemoveAll(b.out); err != nil {
		return fmt.Errorf("empty %s: %w", b.out, err)
	}
	if err := os.MkdirAll(filepath.Join(b.out, assetsDir), 0o755); err != nil {
		return fmt.Errorf("create %s: %w", b.out, err)
	}
	b.say("release %s of commit %s", b.Version, b.Commit)
	subjects, err := b.parts(ctx)
	if err != nil {
		return err
	}
	if err := b.conclude(subjects); err != nil {
		return err
	}
	if err := os.RemoveAll(final); err != nil {
		return fmt.Errorf("replace %s: %w", final, err)
	}
	if err := os.Rename(b.out, final); err != nil {
		return fmt.Errorf("replace %s: %w", final, err)
	}
	b.say("%s is complete", final)
	return nil
}

// parts builds the results, in the order in which they need each other, and returns those that are
// not files of the release.
func (b builder) parts(ctx context.Context) ([]subject, error) {
	images, err := b.images(ctx)
	if err != nil {
		return nil, err
	}
	chart, err := b.chart(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.manifests(ctx); err != nil {
		return nil, err
	}
	if err := b.commandLine(ctx); err != nil {
		return nil, err
	}
	return append(images, chart), nil
}

// conclude writes what describes the results: notes, digests, provenance and checksums.
func (b builder) conclude(subjects []subject) error {
	if err := b.notes(); err != nil {
		return err
	}
	if err := b.list(subjects); err != nil {
		return err
	}
	if err := b.provenance(subjects); err != nil {
		return err
	}
	return b.checksums()
}

func (b builder) asset(name string) string { return filepath.Join(b.out, assetsDir, name) }

func (b builder) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.log, format+"\n", args...)
}
