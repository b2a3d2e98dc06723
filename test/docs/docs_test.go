// Package docs_test checks the references in the documentation: the tests that docs/threat-model.md
// names, and links.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestThreatModel checks that every test named in the threat model exists, with its subtest.
func TestThreatModel(t *testing.T) {
	named := regexp.MustCompile("`((?:cmd|internal|test)/[a-z0-9/]+) (Test[A-Za-z0-9]+)(?:/([^`]+))?`")
	found := named.FindAllStringSubmatch(read(t, filepath.Join(root, "docs", "threat-model.md")), -1)
	if len(found) == 0 {
		t.Fatal("it names no tests")
	}
	tests := map[string]string{} // the text of the test files, by folder
	for _, f := range found {
		folder, function, subtest := f[1], f[2], f[3]
		if _, ok := tests[folder]; !ok {
			tests[folder] = testFiles(t, folder)
		}
		if !strings.Contains(tests[folder], "\nfunc "+function+"(") {
			t.Errorf("%s has no %s", folder, function)
		}
		if subtest != "" && !strings.Contains(tests[folder], `"`+subtest+`"`) {
			t.Errorf("%s: %s has no subtest %q", folder, function, subtest)
		}
	}
}

func testFiles(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("%s: no tests (%v)", folder, err)
	}
	var all strings.Builder
	for _, file := range files {
		all.WriteString(read(t, file))
	}
	return all.String()
}

// TestLinks checks that links between pages lead to a file and a heading that exist.
func TestLinks(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "charts/podid/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages {
		for _, found := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, heading, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %s: %v", page, found[1], err)
			} else if heading != "" && !slices.Contains(headings(read(t, path)), heading) {
				t.Errorf("%s: %s: no such heading", page, found[1])
			}
		}
	}
}

// headings are the anchors of a page.
func headings(page string) (anchors []string) {
	drop := regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") {
			title := strings.TrimSpace(strings.TrimLeft(line, "#"))
			anchors = append(anchors, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
		}
	}
	return anchors
}
