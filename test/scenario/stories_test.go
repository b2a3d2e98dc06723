package scenario_test

import (
	"os"
	"testing"

	"github.com/podid-io/podid/internal/emulator/world"
)

// nothingLeaked: in all these stories, no pod got anything that belongs to the machine alone, and
// no packet of a pod arrived at the metadata service.
func nothingLeaked(s *story) {
	if n := s.podPackets() - s.passedBy; n != 0 {
		s.Errorf("%d packets of pods arrived at the metadata service", n)
	}
	for _, r := range s.requests(0, world.Filter{Surface: "imds"}) {
		if leak := r.Details["leak"]; leak != "" {
			s.Errorf("the metadata service saw %s %s of %s: %s", r.Method, r.Path, r.Caller, leak)
		}
	}
}

// TestStories runs all stories on one cluster, one after the other.
func TestStories(t *testing.T) {
	if os.Getenv(envTest) == "" {
		t.Skip("stories need root and a whole cluster: run `make test-sandbox`")
	}
	c, err := openCluster(os.Getenv(envSandbox))
	if err != nil {
		t.Fatal(err)
	}
	if err := tapMetadata(c.sandbox); err != nil {
		t.Fatal(err)
	}
	c.run(t, "a pod gets a token", podGetsToken)
	c.run(t, "the first instruction", firstInstruction)
	c.run(t, "what others assigned stays", othersStay)
	c.run(t, "an exception", exception)
	c.run(t, "no key anywhere", keyless)
	c.run(t, "a service principal", withSecret)
	c.run(t, "a hostile pod", hostilePod)
	c.run(t, "a hostile tenant", hostileTenant)
	c.run(t, "addresses are used again", addressesReused)
	c.run(t, "the agent is away", agentAway)
	c.run(t, "the agents are replaced", agentsReplaced)
	c.run(t, "the agents are killed", agentsKilled)
	c.run(t, "a node reboots", nodeRebooted)
	c.run(t, "the wire with host routing", wireWithHostRouting)
	c.run(t, "the wire with Cilium", wireWithCilium)
	c.run(t, "MIC restarts", micRestarts)
	c.run(t, "managed mode", managedMode) // last, because it removes MIC
	c.run(t, "nothing leaked", nothingLeaked)
}
