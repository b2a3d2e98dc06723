package redirect

import (
	"errors"
	"testing"
	"time"
)

// clean is Clean on the node.
func (n *network) clean(patience time.Duration, force bool) (found bool, err error) {
	err = n.node.Do(func() (err error) {
		found, err = Clean(n.t.Context(), testConfig(), patience, force)
		return err
	})
	return found, err
}

func TestClean(t *testing.T) {
	n := veth(t)
	if found, err := n.clean(0, false); found || err != nil {
		t.Errorf("a node without a redirect: %v, %v", found, err)
	}
	r, stop := n.agent("agent", testConfig())
	n.ensure(r)
	var busy *BusyError
	if _, err := n.clean(0, false); !errors.As(err, &busy) || busy.At.Port() != r.port {
		t.Errorf("an agent is at work: got %v", err)
	}
	if !n.whole(r) {
		t.Error("refused, and yet something was removed")
	}
	go func() { <-time.After(cleanInterval); stop() }()
	if found, err := n.clean(patience, false); !found || err != nil {
		t.Errorf("once the agent has ended: %v, %v", found, err)
	}
	body, err := get(n.pod, imds)
	n.wantBody("metadata service", body, err)
}

func TestCleanForced(t *testing.T) {
	n := veth(t)
	r, _ := n.agent("agent", testConfig()) // it answers, but does not look after its rules
	n.ensure(r)
	if found, err := n.clean(0, true); !found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
	if have := n.ours(r); have != nil {
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
