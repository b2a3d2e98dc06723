package program

import (
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// TestEarlier: connections of pods on the node's network that are open when the guard is first put
// in place go on. What did not connect stays dropped, and nothing is noted where there is a guard.
func TestEarlier(t *testing.T) {
	for name, noTCX := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			w := newUplinked(t)
			inNode(t, w.world, func() error { return Remove(w.pins) })
			var held []*hooktest.Held
			for _, way := range []string{"connect", "IPv4-mapped", "MPTCP"} {
				held = append(held, hooktest.Hold(t, w.node, w.podGroup, way))
			}
			late := hooktest.Hold(t, w.node, w.podGroup, "connect")

			w.attach(t)
			w.hook.noTCX = noTCX
			w.guard(t)
			for i, h := range held {
				if got := h.Ask(); got != "metadata service" {
					t.Errorf("connection %d: %s", i, got)
				}
			}
			w.drops(t, w.node, w.podGroup, "AF_PACKET")
			if got := w.noted(t); got < len(held)+1 {
				t.Errorf("noted %d connections", got)
			}

			w.attach(t) // a successor
			if got := late.Ask(); got != "metadata service" {
				t.Errorf("after a successor has replaced the programs: %s", got)
			}
			before := w.noted(t)
			marked := hooktest.Hold(t, w.node, w.podGroup, "connect")
			w.attach(t)
			if after := w.noted(t); after != before {
				t.Errorf("with a guard in place, %d more connections were noted", after-before)
			}
			if got := marked.Ask(); got != "metadata service" {
				t.Errorf("connected with a guard in place: %s", got)
			}
		})
	}
}

// TestNotEarlier: of a connection that is not noted, the guard drops the packets.
func TestNotEarlier(t *testing.T) {
	w := newUplinked(t)
	inNode(t, w.world, func() error { return Remove(w.pins) })
	held := hooktest.Hold(t, w.node, w.podGroup, "connect")
	w.attach(t)
	w.forget(t)
	w.guard(t)
	held.Send()
	eventually(t, "its packets are dropped", func() (bool, error) { return w.dropped(t) > 0, nil })
}

// noted returns how many connections are noted.
func (w *world) noted(t *testing.T) int {
	t.Helper()
	all, err := keys[uint8](w.hook.all.Maps[earlierMap])
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// forget forgets the connections that are noted.
func (w *world) forget(t *testing.T) {
	t.Helper()
	noted := w.hook.all.Maps[earlierMap]
	all, err := keys[uint8](noted)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range all {
		if err := noted.Delete(cookie); err != nil {
			t.Fatal(err)
		}
	}
}
