// The tables of flags in docs/mic.md and docs/nmi.md against --help of the programs.

package docs_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// helpFlag matches a flag in --help, its description included.
var helpFlag = regexp.MustCompile(`(?m)^  -(\S+)(.*\n(?:    .*\n)*)`)

// helpDefault matches the default in a flag's description.
var helpDefault = regexp.MustCompile(`\(default "?([^")]*)"?\)`)

// TestFlags compares the names and defaults of all flags.
func TestFlags(t *testing.T) {
	for _, program := range []string{"mic", "nmi"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			binary := filepath.Join(t.TempDir(), program)
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, root+"/cmd/"+program).CombinedOutput(); err != nil {
				t.Fatalf("go build: %v\n%s", err, out)
			}
			help, err := exec.CommandContext(t.Context(), binary, "--help").Output()
			if err != nil {
				t.Fatalf("--help: %v", err)
			}
			documented := flagTable(read(t, filepath.Join(root, "docs", program+".md")))
			found := helpFlag.FindAllStringSubmatch(string(help), -1)
			if len(found) < 20 {
				t.Fatalf("%d flags in --help:\n%s", len(found), help)
			}
			for _, f := range found {
				name, of := f[1], ""
				if d := helpDefault.FindStringSubmatch(f[2]); d != nil {
					of = strings.TrimSuffix(strings.TrimSuffix(d[1], "0s"), "0m") // 10m0s and 1h0m0s
				}
				switch cell, ok := documented[name]; {
				case !ok:
					t.Errorf("--%s is not in docs/%s.md", name, program)
				case !strings.Contains(cell, of):
					t.Errorf("--%s: the default is %q, docs/%s.md says %q", name, of, program, cell)
				}
				delete(documented, name)
			}
			delete(documented, "help")
			for _, name := range slices.Sorted(maps.Keys(documented)) {
				t.Errorf("docs/%s.md has --%s, which the program has not", program, name)
			}
		})
	}
}

// flagTable returns the second cells of a page's tables of flags, by flag.
func flagTable(page string) map[string]string {
	name, defaults, inside := regexp.MustCompile("`([^`]+)`"), map[string]string{}, false
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			inside = false
			continue
		}
		if inside = inside || strings.TrimSpace(cells[1]) == "flag"; !inside {
			continue
		}
		for _, found := range name.FindAllStringSubmatch(cells[1], -1) {
			defaults[found[1]] = cells[2]
		}
	}
	return defaults
}
