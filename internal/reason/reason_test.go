package reason

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/reasons.md")

func TestRows(t *testing.T) {
	name := regexp.MustCompile(`^[A-Z][A-Za-z]+$`)
	oauth := regexp.MustCompile(`^[a-z_]+$`)
	for _, r := range All() {
		row := table[r]
		switch {
		case r < 100 || r >= 700:
			t.Errorf("%d is in no group", r)
		case !name.MatchString(row.name):
			t.Errorf("%s: name %q", r.Code(), row.name)
		case row.status == 0 && (row.oauth != "" || row.verbatim):
			t.Errorf("%s: no status for its answer", r.Code())
		case row.status != 0 && !oauth.MatchString(row.oauth):
			t.Errorf("%s: error code %q", r.Code(), row.oauth)
		case row.actor == "" || !strings.HasSuffix(row.meaning, ".") || !strings.HasSuffix(row.remedy, "."):
			t.Errorf("%s: no actor, meaning or remedy", r.Code())
		}
	}
}

// TestTransient checks that clients retry exactly when that may help: they treat 400, 401 and 403
// as final, and some cache a 400 for as long as they run.
func TestTransient(t *testing.T) {
	for _, r := range All() {
		retried := r.Status() == http.StatusNotFound || r.Status() == http.StatusTooManyRequests || r.Status() >= 500
		// The first two have no state that could change. A clock can be corrected while clients run.
		final := r == PathUnknown || r == HostTCPOff || r == ClockWrong
		if r.Status() != 0 && !final && r.Transient() != retried {
			t.Errorf("%s (%s): status %d, transient %v", r.Code(), r.Name(), r.Status(), r.Transient())
		}
	}
}

// TestConstants checks that constants and rows are the same reasons, that each is used, and that no
// other code converts a number to a Reason.
func TestConstants(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	rows := map[string]bool{}
	for _, r := range All() {
		rows[fmt.Sprint(uint16(r))] = true
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			number := spec.Values[0].(*ast.BasicLit).Value
			if !rows[number] {
				t.Errorf("%s = %s has no row", spec.Names[0], number)
			}
			delete(rows, number)
			names = append(names, spec.Names[0].Name)
		}
		return true
	})
	for number := range rows {
		t.Errorf("row %s has no constant", number)
	}
	var all strings.Builder
	for path, text := range sources(t) {
		all.WriteString(text)
		if strings.Contains(text, "reason.Reason(") {
			t.Errorf("%s makes a number a reason", path)
		}
	}
	for _, name := range names {
		if !regexp.MustCompile(`\breason\.` + name + `\b`).MatchString(all.String()) {
			t.Errorf("nothing is refused because of %s", name)
		}
	}
}

// sources returns the repository's Go files by path, without tests and this package.
func sources(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, root := range []string{"../../internal", "../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
				filepath.Base(filepath.Dir(path)) == "reason" {
				return err
			}
			text, err := os.ReadFile(path)
			found[path] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestText(t *testing.T) {
	const code = " (PID-201)"
	for _, c := range []struct{ name, got, want string }{
		{"code", NoLabel.Text("no label"), "no label" + code},
		{"only one code", Quarantined.Text("refused (PID-401)"), "refused (PID-401)"},
		{"no reason", None.Text("fine"), "fine"},
		{"no message", NoLabel.Text(""), ""},
		{"short", Cut("abc"+code, 20), "abc" + code},
		{"cut", Cut(strings.Repeat("a", 30)+code, 20), "aaaaaaa…" + code},
		{"cut at a character", Cut("ééééé", 8), "éé…"},
		{"cut to nothing", Cut("ééééé"+code, 4), "…" + code},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.got != c.want {
				t.Errorf("got %q, want %q", c.got, c.want)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	cause := errors.New("no such host")
	r := EntraTrouble.Refuse("Entra ID (%s) does not answer", "login")
	r.Cause = cause
	if r.Text() != "Entra ID (login) does not answer (PID-521)" || r.Error() != "Entra ID (login) does not answer: no such host" ||
		r.Detail() != "no such host" || !errors.Is(r, cause) {
		t.Errorf("got %q, %q, %q", r.Text(), r.Error(), r.Detail())
	}
	if got := r.Answer(); got != (Answer{http.StatusInternalServerError, "entra_id_trouble", r.Text()}) {
		t.Errorf("answer %v", got)
	}
	r.Relayed = Answer{Status: http.StatusUnauthorized, OAuth: "unknown_source"}
	if got := r.Answer(); got != (Answer{http.StatusUnauthorized, "unknown_source", r.Text()}) {
		t.Errorf("relayed %v", got)
	}
	if got := HeaderMissing.Refuse("no header").Answer().Description; got != "no header" {
		t.Errorf("got %q, which clients do not match", got)
	}
}

// TestDocs checks that docs/reasons.md matches the table.
func TestDocs(t *testing.T) {
	const path = "../../docs/reasons.md"
	want := page()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/reasons.md is not what the table says (%v): go test ./internal/reason -update", err)
	}
}

func page() []byte {
	var b bytes.Buffer
	b.WriteString(`<!-- Generated from internal/reason by go test ./internal/reason -update. Do not edit. -->
# Reasons

Where podid refuses something, it gives a code: at the end of an Event or a condition, of the
` + "`error_description`" + ` that a pod reads, and as ` + "`code`" + ` in the audit log. This page lists all codes. A code never
changes its meaning. The name is the one word that Events, metrics and ` + "`status.reason`" + ` have; several
codes can share one.

*Transient* means that the same request may succeed later without any change, and clients retry it.
*Final* means that it will not. "Event" marks reasons for which the node agent emits an Event on the
pod.

| codes | link of the chain |
|---|---|
`)
	groups := []string{
		"the request and its caller", "labels, bindings and identities", "the policy of the cluster's owner",
		"assigning the identity to the node on Azure", "the source of tokens", "the node agent itself",
	}
	for i, group := range groups {
		fmt.Fprintf(&b, "| [%d01](#pid-%d01) to %d99 | %s |\n", i+1, i+1, i+1, group)
	}
	group := Reason(0)
	for _, r := range All() {
		if r/100 != group {
			group = r / 100
			fmt.Fprintf(&b, "\n## %s\n", strings.ToUpper(groups[group-1][:1])+groups[group-1][1:])
		}
		row := table[r]
		passes := "final"
		if r.Transient() {
			passes = "transient"
		}
		facts := []string{"`" + row.name + "`"}
		if row.status != 0 {
			facts = append(facts, fmt.Sprintf("%d `%s`", row.status, row.oauth))
		}
		facts = append(facts, passes)
		if row.event {
			facts = append(facts, "Event")
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n%s\n\n- Who acts: %s.\n- Remedy: %s\n", r.Code(), strings.Join(facts, " · "), row.meaning, row.actor, row.remedy)
	}
	return b.Bytes()
}
