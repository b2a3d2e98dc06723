// Package chart tests the Helm chart: what it renders, per set of values, against golden files;
// that it is safe by default; that it accepts every value of its predecessor; and that a real API
// server accepts the result.
package chart

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	chartDir  = "../../charts/podid"
	namespace = "podid-system"
)

// helm returns the path of the helm program: $PODID_HELM, the newest in the tools cache, or the one
// in PATH. It skips the test if there is none, unless PODID_HELM names one that does not work.
func helm(t *testing.T) string {
	t.Helper()
	if named := os.Getenv("PODID_HELM"); named != "" {
		return named
	}
	cache, err := os.UserCacheDir()
	if err == nil {
		tools := filepath.Join(cache, "podid", "tools")
		if path := newest(filepath.Join(tools, "helm"), filepath.Join(tools, "*", "helm")); path != "" {
			return path
		}
	}
	path, err := exec.LookPath("helm")
	if err != nil {
		t.Skip("there is no helm: run make test-unit, which builds it, or set PODID_HELM")
	}
	return path
}

// newest returns the latest file that matches, or "".
func newest(patterns ...string) string {
	var best string
	var found os.FileInfo
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			info, err := os.Stat(path)
			if err == nil && info.Mode().IsRegular() && (found == nil || info.ModTime().After(found.ModTime())) {
				best, found = path, info
			}
		}
	}
	return best
}

// runHelm runs helm with its own home and returns its output. The error contains helm's error
// output.
func runHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), helm(t), args...)
	home := t.TempDir()
	command.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	var out, complaint bytes.Buffer
	command.Stdout, command.Stderr = &out, &complaint
	if err := command.Run(); err != nil {
		if errors.Is(t.Context().Err(), context.Canceled) {
			t.Fatal("helm did not end before the test did")
		}
		return out.String(), errors.New(strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// helm3 reports whether the helm program is of version 3.
func helm3(t *testing.T) bool {
	t.Helper()
	version, err := runHelm(t, "version", "--short")
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(version, "v3.")
}

// template renders the chart with additional arguments for helm.
func template(t *testing.T, args ...string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	out, err := runHelm(t, append([]string{"template", "podid", chartDir, "--namespace", namespace, "--kube-version", "1.34.0"}, args...)...)
	if err != nil {
		return nil, err
	}
	return parse(t, out), nil
}

// render is template for values that must be valid.
func render(t *testing.T, args ...string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := template(t, args...)
	if err != nil {
		t.Fatalf("render: %v", err)
	}
	return objects
}

// parse splits helm's output into objects, sorted, so that the version of helm does not matter. A
// repeated key or object is an error: of two, the API server or Helm would take one.
func parse(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	seen := map[string]bool{}
	for document := range strings.SplitSeq("\n"+text, "\n---") {
		object := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(document), &object.Object); err != nil {
			t.Fatalf("parse what helm rendered: %v\n%s", err, document)
		}
		if len(object.Object) == 0 {
			continue
		}
		if key := object.GroupVersionKind().Group + "/" + id(object); seen[key] {
			t.Fatalf("helm rendered %s twice", key)
		} else {
			seen[key] = true
		}
		objects = append(objects, object)
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return strings.Compare(id(a), id(b)) })
	return objects
}

// id identifies an object: kind/namespace/name.
func id(o *unstructured.Unstructured) string {
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

// valueSets returns the files in testdata/values by name.
func valueSets(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no value sets: %v", err)
	}
	sets := map[string]string{}
	for _, path := range paths {
		sets[strings.TrimSuffix(filepath.Base(path), ".yaml")] = path
	}
	return sets
}
