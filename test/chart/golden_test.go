package chart

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files from what the chart renders now")

func TestGolden(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			got := text(t, render(t, "--values", values))
			path := filepath.Join("testdata", "golden", name+".yaml")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("read golden file: %v: write it with go test ./test/chart -update", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the chart renders something else (-golden +now); where that is meant, run go test ./test/chart -update\n%s", diff)
			}
		})
	}
}

// Helm 3, which is in use beside Helm 4, renders the same.
func TestGoldenHelm3(t *testing.T) {
	program := os.Getenv("PODID_HELM3")
	if program == "" {
		t.Skip("set PODID_HELM3 to Helm 3: make test-unit builds it")
	}
	t.Setenv("PODID_HELM", program)
	if !helm3(t) {
		t.Fatalf("%s is not Helm 3", program)
	}
	for name, values := range valueSets(t) {
		want, err := os.ReadFile(filepath.Join("testdata", "golden", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), text(t, render(t, "--values", values))); diff != "" {
			t.Errorf("%s: Helm 3 renders something else (-golden +Helm 3)\n%s", name, diff)
		}
	}
}

func TestLint(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			if out, err := runHelm(t, "lint", chartDir, "--strict", "--values", values); err != nil {
				t.Errorf("helm lint: %v\n%s", err, out)
			}
		})
	}
}

// text formats objects as in the golden files.
func text(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	var all strings.Builder
	for _, object := range objects {
		nameFiles(t, object)
		data, err := yaml.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("---\n")
		all.Write(data)
	}
	return all.String()
}

// nameFiles replaces the files of the chart that are in a ConfigMap by a remark.
func nameFiles(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	data, _, _ := unstructured.NestedStringMap(object.Object, "data")
	for name, content := range data {
		file, err := os.ReadFile(filepath.Join(chartDir, "crds", name))
		if err == nil && strings.TrimSpace(string(file)) == strings.TrimSpace(content) {
			data[name] = "crds/" + name
		}
	}
	if len(data) > 0 {
		if err := unstructured.SetNestedStringMap(object.Object, data, "data"); err != nil {
			t.Fatal(err)
		}
	}
}
