// The objects that the demonstration applies.

package demo

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"

	"github.com/podid-io/podid/internal/sandbox"
)

//go:embed manifest.yaml
var manifestTemplate string

// The two pods: one whose label a binding selects, and one whose label no binding selects.
const (
	boundPod   = "bound"
	unboundPod = "unbound"
	namespace  = "demo"
)

type pod struct{ Name, Label string }

// facts are the values of the manifest's template.
type facts struct {
	Identity   sandbox.Identity
	CA         string
	ARM        string
	ScaleSetID string
	Image      string
	Pods       []pod
}

// manifest fills in the template.
func manifest(f facts) (string, error) {
	t, err := template.New("manifest").Option("missingkey=error").Funcs(template.FuncMap{"indent": indent}).Parse(manifestTemplate)
	if err != nil {
		return "", fmt.Errorf("write the demo's objects: %w", err)
	}
	var out strings.Builder
	if err := t.Execute(&out, f); err != nil {
		return "", fmt.Errorf("write the demo's objects: %w", err)
	}
	return out.String(), nil
}

func indent(spaces int, text string) string {
	pad := strings.Repeat(" ", spaces)
	return pad + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+pad)
}
