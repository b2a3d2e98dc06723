package dataplane

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// TestHostRouting: the agent is not ready while the label says that packets pass by the redirect.
func TestHostRouting(t *testing.T) {
	var c Check
	if err := c.Ready(); err != nil {
		t.Errorf("before the node is known: %v", err)
	}
	for _, step := range []struct {
		label string
		ready bool
	}{{"true", false}, {"", true}, {"True", false}, {"false", true}} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1.HostRoutingLabel: step.label}}}
		c.SetNode(node)
		err := c.Ready()
		if (err == nil) != step.ready {
			t.Errorf("label %q: %v", step.label, err)
		}
		if err != nil && !strings.Contains(err.Error(), "start-up taint") {
			t.Errorf("no remedy: %v", err)
		}
	}
}
