// Tokens of the agent that this one replaces, and for the one that replaces this one: an agent that
// is rolled while their source is down serves pods nevertheless.

package main

import (
	"encoding/json"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
)

// carry returns the tokens in use, for a newer agent.
func (a *agent) carry() [][]byte {
	var items [][]byte
	for _, t := range a.tokens.Carry() {
		if item, err := json.Marshal(t); err == nil {
			items = append(items, item)
		}
	}
	return items
}

// adopt keeps the tokens that an older agent passed on. Which pod may have which is decided again.
func (a *agent) adopt(items [][]byte) {
	kept := 0
	for _, item := range items {
		var carried token.Carried
		if json.Unmarshal(item, &carried) != nil {
			continue // of another version
		}
		t, err := source.Restore(carried, clusterIdentity(a.o, a.own))
		if err != nil {
			continue // such as one that has expired
		}
		if a.tokens.Adopt(carried, t) == nil {
			kept++
		}
	}
	if len(items) > 0 {
		a.log.Info("adopted tokens of the older agent", "kept", kept, "passed", len(items))
	}
}
