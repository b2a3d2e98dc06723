package chart

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs themselves take what the chart passes: built from this tree, and asked for their version, they stop at a
// flag that they do not have or a value they cannot read.
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

// build builds a program the way make does, so that the build cache serves both.
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
