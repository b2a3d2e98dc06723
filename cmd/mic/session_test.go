package main

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/observe"
)

// TestNotReadyBeforeCaches checks that a MIC whose probes are served before its session begins is
// not ready.
func TestNotReadyBeforeCaches(t *testing.T) {
	s := &session{health: &observe.Health{}}
	s.addChecks()
	if got := strings.Join(s.health.Ready(), "\n"); got != "caches: not filled yet" {
		t.Errorf("not ready because of %q", got)
	}
}
