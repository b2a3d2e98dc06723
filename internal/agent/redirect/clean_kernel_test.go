package redirect

import (
	"errors"
	"testing"
	"time"
)

// clean calls Clean on the node.
func (n *network) clean(stopTimeout time.Duration, force bool) (found bool, err error) {
	err = n.node.Do(func() (err error) {
		found, err = Clean(n.t.Context(), testConfig(), stopTimeout, force)
		return err
	})
	return found, err
}

func TestClean(t *testing.T) {
	n := veth(t)
	if found, err := n.clean(0, false); found || err != nil {
		t.Errorf("without a redirect: %v, %v", found, err)
	}
	r, stop := n.agent("agent", testConfig())
	n.ensure(r)
	var busy *BusyError
	if _, err := n.clean(0, false); !errors.As(err, &busy) || busy.At.Port() != r.port {
		t.Errorf("while an agent answers: got %v", err)
	}
	if !n.inPlace(r) {
		t.Error("removed something although it failed")
	}
	go func() { <-time.After(cleanInterval); stop() }()
	if found, err := n.clean(testTimeout, false); !found || err != nil {
		t.Errorf("after the agent has stopped: %v, %v", found, err)
	}
	body, err := get(n.pod, imds)
	n.wantBody("metadata service", body, err)
}

func TestCleanForced(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig()) // it answers, but does not restore its rules
	n.ensure(r)
	if found, err := n.clean(0, true); !found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
	if have := n.ruleset(r); have != nil {
		t.Errorf("still there: %v", have)
	}
}

func TestCleanAddressOnly(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig())
	n.ensure(r)
	n.in(n.node, func() error { return deleteTable(DefaultTable) })
	if found, err := n.clean(0, false); !found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
}
