package hook

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
)

// TestTwoHolders: the newer of two holders publishes once its agent has all sockets. If it ends,
// the older one publishes again.
func TestTwoHolders(t *testing.T) {
	r := newRig(t)
	a := r.pod("pod-a")
	older, newer := r.holder(), r.holder()
	older.run()
	older.dial().want("+pod-a", "complete")
	r.wantPublished("one holder", map[uint64]uint16{a: firstPort})

	end := newer.run()
	r.eventually("the newer is settled", func() bool {
		newer.mu.Lock()
		defer newer.mu.Unlock()
		return newer.settled
	})
	newer.reconciled()
	if !r.isPublished(map[uint64]uint16{a: firstPort}) {
		t.Errorf("the newer without an agent: %v", r.endpoints.all())
	}
	newer.dial().want("+pod-a", "complete")
	older.reconciled()
	if !r.isPublished(map[uint64]uint16{a: secondPort}) {
		t.Errorf("the newer with an agent: %v", r.endpoints.all())
	}
	end()
	r.wantPublished("the newer ended", map[uint64]uint16{a: firstPort})
}

// TestPublishErrors: what cannot be published is passed on anyway, and published later.
func TestPublishErrors(t *testing.T) {
	r := newRig(t)
	a := r.pod("pod-a")
	r.endpoints.fail(errors.New("the map is full"))
	h := r.holder()
	h.run()
	agent := h.dial()
	agent.want("+pod-a", "complete")
	b := r.pod("pod-b")
	agent.want("+pod-b")
	if !r.isPublished(nil) {
		t.Errorf("nothing can be published: %v", r.endpoints.all())
	}
	r.endpoints.fail(nil)
	r.wantPublished("later", map[uint64]uint16{a: firstPort, b: firstPort})
}

// TestUnknown: what earlier holders left of namespaces that are gone is withdrawn after a while,
// unless a namespace could not be opened, whose it may be.
func TestUnknown(t *testing.T) {
	r := newRig(t)
	const gone = 1 << 40
	r.endpoints.published[gone] = listen
	a := r.pod("pod-a")
	h, broken := r.holder(), unix.EMFILE
	h.opens = make(chan struct{}, 1) // who has it may use broken
	h.openSockets = func(path string, at netip.AddrPort) (*netns.Sockets, error) {
		if filepath.Base(path) == "pod-b" && broken != 0 {
			return nil, broken
		}
		return netns.Open(path, at)
	}
	h.run()
	agent := h.dial()
	agent.want("+pod-a", "complete")
	later := func() bool {
		h.reconciled()
		h.after(unknownGrace)
		h.reconciled()
		return r.isPublished(map[uint64]uint16{a: firstPort})
	}
	h.reconciled()
	if r.isPublished(map[uint64]uint16{a: firstPort}) {
		t.Errorf("withdrawn at once: %v", r.endpoints.all())
	}
	b := r.pod("pod-b")
	tried := func(want error) func() bool {
		return func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			f := h.files[filepath.Join(r.namespaces.Folder, "pod-b")]
			return f != nil && errors.Is(f.err, want)
		}
	}
	r.eventually("pod-b cannot be opened", tried(unix.EMFILE))
	if later() {
		t.Errorf("withdrawn although a namespace cannot be opened: %v", r.endpoints.all())
	}
	h.opens <- struct{}{}
	broken = unix.EINVAL
	<-h.opens
	r.eventually("pod-b is none", tried(unix.EINVAL))
	if !later() {
		t.Errorf("not withdrawn: %v", r.endpoints.all())
	}
	h.opens <- struct{}{}
	broken = 0
	<-h.opens
	agent.want("+pod-b")
	r.wantPublished("all opened", map[uint64]uint16{a: firstPort, b: firstPort})
}

// TestNoAgent: a listener that no agent has is withdrawn after a while, and published again for the
// next agent. One that an earlier holder has published is left to its agent.
func TestNoAgent(t *testing.T) {
	r := newRig(t)
	a := r.pod("pod-a")
	r.endpoints.published[a] = netip.AddrPortFrom(listen.Addr(), 1)
	h := r.holder()
	h.run()
	r.eventually("settled", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.settled
	})
	h.after(time.Hour)
	h.reconciled()
	if !r.isPublished(map[uint64]uint16{a: 1}) {
		t.Errorf("the earlier holder's: %v", r.endpoints.all())
	}
	for range 2 {
		agent := h.dial()
		agent.want("+pod-a", "complete")
		r.wantPublished("an agent", map[uint64]uint16{a: firstPort})
		h.reconciled()
		_ = agent.conn.Close()
		r.eventually("the agent is gone", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.agents) == 0
		})
		h.after(agentGrace - time.Second)
		h.reconciled()
		if !r.isPublished(map[uint64]uint16{a: firstPort}) {
			t.Errorf("soon after the agent: %v", r.endpoints.all())
		}
		h.after(time.Second)
		h.reconciled()
		if !r.isPublished(nil) {
			t.Errorf("long after the agent: %v", r.endpoints.all())
		}
	}
}
