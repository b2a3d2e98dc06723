package main

import (
	"testing"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/privileged"
)

// The command cannot import NMI's packages, so it repeats their defaults.
func TestNodeCleanupDefaults(t *testing.T) {
	for got, want := range map[string]string{
		defaultTable: redirect.DefaultTable, defaultAgentIP: redirect.DefaultAgentIP, defaultPins: privileged.DefaultPins,
	} {
		if got != want {
			t.Errorf("%s, but NMI has %s", got, want)
		}
	}
}
