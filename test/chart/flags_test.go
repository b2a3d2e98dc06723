package chart

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs accept the flags that the chart passes: built from this tree and asked for their
// version, they fail on an unknown flag or an invalid value.
func TestFlagsTaken(t *testing.T) {
	for _, program := range []string{"mic", "nmi"} {
		t.Run(program, func(t *testing.T) {
			binary := build(t, program)
			for name, values := range valueSets(t) {
				for _, object := range render(t, "--values", values) {
					spec, ok := podSpec(t, object)
					if !ok || spec.Containers[0].Name != program {
						continue
					}
					args := append(spec.Containers[0].Args, "--version")
					if out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput(); err != nil {
						t.Errorf("%s: %s %s: %v\n%s", name, program, strings.Join(args, " "), err, out)
					}
				}
			}
		})
	}
}

// build builds a program as make does, so that both share the build cache.
func build(t *testing.T, program string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), program)
	command := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, "./cmd/"+program)
	command.Dir = "../.."
	command.Env = append(command.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build cmd/%s: %v\n%s", program, err, out)
	}
	return binary
}
