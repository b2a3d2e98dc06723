package scenario_test

import (
	"os"
	"testing"

	"github.com/podid-io/podid/internal/emulator/world"
)

// nothingLeaked: in all these stories, no pod got anything that belongs to the machine alone.
func nothingLeaked(s *story) {
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
	c.tell(t, "a pod gets a token", podGetsToken)
	c.tell(t, "several identities", severalIdentities)
	c.tell(t, "an identity leaves", identityLeaves)
	c.tell(t, "what others assigned stays", othersStay)
	c.tell(t, "an exception", exception)
	c.tell(t, "one bad identity", badIdentity)
	c.tell(t, "no key anywhere", keyless)
	c.tell(t, "a service principal", withSecret)
	c.tell(t, "real clients", realClients)
	c.tell(t, "a hostile pod", hostilePod)
	c.tell(t, "a hostile tenant", hostileTenant)
	c.tell(t, "addresses are used again", addressesReused)
	c.tell(t, "the agent is away", agentAway)
	c.tell(t, "the agents are replaced", agentsReplaced)
	c.tell(t, "MIC restarts", micRestarts)
	c.tell(t, "managed mode", managedMode) // last, because it removes MIC
	c.tell(t, "nothing leaked", nothingLeaked)
}
