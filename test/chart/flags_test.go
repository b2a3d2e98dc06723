package chart

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The programs accept the flags that the chart passes: built from this tree and asked for their
// version, they fail on an unknown flag or an invalid value.
func TestFlagsTaken(t *testing.T) {
	for program, container := range map[string]string{"mic": "mic", "nmi": "nmi", "nmi-holder": "holder"} {
		t.Run(program, func(t *testing.T) {
			binary := build(t, program)
			for name, values := range valueSets(t) {
				for _, object := range render(t, "--values", values) {
					spec, ok := podSpec(t, object)
					at := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == container })
					if !ok || at < 0 {
						continue
					}
					args := append(spec.Containers[at].Args, "--version")
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
