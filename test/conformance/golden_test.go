// The golden files: what a client sent, without what differs from run to run.
package conformance_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden is what one client sent, by question.
type golden struct {
	text strings.Builder
	ids  []string // old and new, for strings.NewReplacer
}

func newGolden(c *sdk) *golden {
	g := &golden{}
	fmt.Fprintf(&g.text, "What %s sends to the metadata service, and the status that it gets.\n", c.name)
	for _, name := range []string{first, second, secret, certificate, federated} {
		g.name(named(name).ClientID, "<client id of "+name+">")
		g.name(named(name).PrincipalID, "<object id of "+name+">")
		g.name(named(name).ResourceID, "<resource id of "+name+">")
	}
	return g
}

// name replaces an ID, however it is escaped in a query.
func (g *golden) name(id, by string) {
	g.ids = append(g.ids, id, by)
	for _, escaped := range []string{url.QueryEscape(id), strings.ReplaceAll(url.QueryEscape(id), "%2F", "%2f")} {
		if escaped != id {
			g.ids = append(g.ids, escaped, strings.TrimSuffix(by, ">")+", escaped>")
		}
	}
}

// add adds the requests of a question.
func (g *golden) add(part string, all []exchange) {
	fmt.Fprintf(&g.text, "\n== %s\n", part)
	ids := strings.NewReplacer(g.ids...)
	for i, e := range all {
		if i > 0 {
			g.text.WriteByte('\n')
		}
		head := ids.Replace(e.head)
		for _, v := range variable() {
			head = v.pattern.ReplaceAllString(head, v.by)
		}
		fmt.Fprintf(&g.text, "%s\n-> %d\n", strings.ReplaceAll(head, "\r\n", "\n"), e.status)
	}
}

// variable returns what differs from run to run, or from machine to machine.
func variable() []struct {
	pattern *regexp.Regexp
	by      string
} {
	type rule = struct {
		pattern *regexp.Regexp
		by      string
	}
	return []rule{
		{regexp.MustCompile(`(?i)\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "<guid>"},
		{regexp.MustCompile(`\bgo1\.[0-9]+(\.[0-9]+)?\S*?([;)\s/])`), "go<version>$2"},
		{regexp.MustCompile(`\bGo/go1\S+ \([^)]*\)`), "Go/go<version> (<platform>)"},
		{regexp.MustCompile(`\b(?i:(node|node\.js|node-version))([ /]\(?)v?[0-9]+(\.[0-9]+)+`), "$1$2<version>"},
		{regexp.MustCompile(`\(Linux [^;)]*; [a-z0-9]+\)`), "(<platform>)"},
		{regexp.MustCompile(`\bOS/\([^)]*\)`), "OS/(<platform>)"},
		{regexp.MustCompile(`\b([pP]ython/)[0-9.]+\S* \([^)]*\)`), "$1<version> (<platform>)"},
	}
}

// compare compares with the file, or writes it.
func (g *golden) compare(t *testing.T, c *sdk) {
	t.Helper()
	path := filepath.Join("testdata/golden", c.name+".txt")
	if *update {
		must(t, os.WriteFile(path, []byte(g.text.String()), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read golden file: %v: write it with -update", err)
	}
	if diff := cmp.Diff(string(want), g.text.String()); diff != "" {
		t.Errorf("%s sends something else than before (-before +now); where that is meant, run with -update\n%s", c.name, diff)
	}
}
