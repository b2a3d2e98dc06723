// What is generated from values.yaml and values.schema.json: the README's table, and the file by
// which the templates know defaults and names.

package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// property is a value in values.schema.json.
type property struct {
	name        string          // dotted
	Title       string          `json:"title"`
	Description string          `json:"description"`
	Default     string          `json:"x-default"`
	Properties  json.RawMessage `json:"properties"`
}

func (p property) section() bool { return p.Properties != nil }

// properties returns the values of the schema in its order, each section before what is in it.
func properties(t *testing.T) []property {
	t.Helper()
	var all []property
	var walk func(prefix string, raw json.RawMessage)
	walk = func(prefix string, raw json.RawMessage) {
		decoder := json.NewDecoder(bytes.NewReader(raw))
		_, err := decoder.Token() // the opening brace
		for err == nil && decoder.More() {
			var key json.Token
			if key, err = decoder.Token(); err != nil {
				break
			}
			p := property{name: prefix + fmt.Sprint(key)}
			err = decoder.Decode(&p)
			all = append(all, p)
			if p.section() {
				walk(p.name+".", p.Properties)
			}
		}
		if err != nil {
			t.Fatalf("parse values.schema.json: %v", err)
		}
	}
	var schema property
	if err := json.Unmarshal([]byte(read(t, "values.schema.json")), &schema); err != nil {
		t.Fatalf("parse values.schema.json: %v", err)
	}
	walk("", schema.Properties)
	return all
}

// Every value has a description, in the schema and so in the README.
func TestDescribed(t *testing.T) {
	for _, p := range properties(t) {
		if p.Description == "" && p.Title == "" {
			t.Errorf("values.schema.json does not describe %s", p.name)
		}
	}
	for _, definition := range []string{"definitions.identity", "properties.podIdentityExceptions.additionalProperties"} {
		var node any
		if err := json.Unmarshal([]byte(read(t, "values.schema.json")), &node); err != nil {
			t.Fatal(err)
		}
		for key := range strings.SplitSeq(definition+".properties", ".") {
			node = node.(map[string]any)[key]
		}
		for name, p := range node.(map[string]any) {
			if p.(map[string]any)["description"] == nil {
				t.Errorf("values.schema.json does not describe %s of %s", name, definition)
			}
		}
	}
}

func TestReadmeFresh(t *testing.T) {
	const begin, end = "<!-- values: from values.schema.json, by go test ./test/chart -update -->\n", "<!-- /values -->\n"
	readme := read(t, "README.md")
	before, rest, found := strings.Cut(readme, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("README.md has no place for the table of values")
	}
	same(t, filepath.Join(chartDir, "README.md"), readme, before+begin+table(t)+end+after)
}

// table returns the README's table of values.
func table(t *testing.T) string {
	t.Helper()
	defaults := defaultValues(t)
	var rows strings.Builder
	rows.WriteString("| value | meaning | default |\n|---|---|---|\n")
	for _, p := range properties(t) {
		switch {
		case p.Title != "":
			fmt.Fprintf(&rows, "| **%s** | %s | |\n", p.Title, p.Description)
		case p.section():
		case p.Default != "":
			fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", p.name, p.Description, p.Default)
		default:
			value, err := json.Marshal(lookup(defaults, p.name))
			if err != nil {
				t.Fatal(err)
			}
			text := "`" + string(value) + "`"
			if strings.HasPrefix(p.name, "adminsecret.") {
				text = ""
			}
			fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", p.name, p.Description, text)
		}
	}
	return rows.String()
}

// The templates cannot read values.yaml and the schema. They have a copy of what they need of both.
func TestKnownFresh(t *testing.T) {
	known := struct {
		Defaults map[string]any `json:"defaults"`
		Sections []string       `json:"sections"`
		Names    []string       `json:"names"`
	}{Defaults: defaultValues(t)}
	for _, p := range properties(t) {
		if p.section() {
			known.Sections = append(known.Sections, p.name)
		}
		known.Names = append(known.Names, p.name)
	}
	data, err := yaml.Marshal(known)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("files", "known.yaml")
	var old []byte
	if old, err = os.ReadFile(filepath.Join(chartDir, path)); err != nil && !*update {
		t.Fatal(err)
	}
	const comment = "# Generated from values.yaml and values.schema.json by go test ./test/chart -update. Templates cannot read those.\n"
	same(t, filepath.Join(chartDir, path), string(old), comment+string(data))
}

// The schema lists sections in the order of values.yaml, which is the order of the README.
func TestSectionsDefault(t *testing.T) {
	defaults := defaultValues(t)
	for _, p := range properties(t) {
		if _, ok := lookup(defaults, p.name).(map[string]any); p.section() && !ok {
			t.Errorf("values.yaml has no section %s", p.name)
		}
	}
}

// same compares a generated file with what it is now, and writes it with -update.
func same(t *testing.T, path, old, now string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(old, now); diff != "" {
		t.Errorf("%s is stale: run go test ./test/chart -update\n%s", path, diff)
	}
}

func defaultValues(t *testing.T) map[string]any {
	t.Helper()
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// lookup returns a value by its dotted name, nil if there is none.
func lookup(values map[string]any, name string) any {
	keys := strings.Split(name, ".")
	for _, key := range keys[:len(keys)-1] {
		values, _ = values[key].(map[string]any)
	}
	return values[keys[len(keys)-1]]
}
