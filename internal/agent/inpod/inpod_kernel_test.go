package inpod

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/agent/hostpods"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/testnet"
)

// pod is a network namespace with an address in it.
type pod struct {
	*testnet.Net
	t    *testing.T
	path string
}

func newPod(t *testing.T) *pod {
	t.Helper()
	hooktest.Require(t)
	namespaces, n := hooktest.NewNamespaces(t), testnet.New(t)
	namespaces.Add("pod", n)
	return &pod{n, t, filepath.Join(namespaces.Folder, "pod")}
}

// sockets opens a holder's sockets in the namespace.
func (p *pod) sockets() (*netns.Sockets, *os.File) {
	p.t.Helper()
	s, err := netns.Open(p.path, netip.MustParseAddrPort("127.0.0.1:64579"))
	if err != nil {
		p.t.Fatal(err)
	}
	diag, err := s.Diag()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _, _ = s.Close(), diag.Close() })
	return s, diag
}

// served reports whether an agent accepts a connection in the namespace.
func (p *pod) served(l *Listener, at netip.AddrPort) bool {
	p.t.Helper()
	err := p.Do(func() error {
		c, err := net.Dial("tcp4", at.String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		select {
		case got := <-l.accepted:
			_ = got.Close()
			return nil
		case <-time.After(time.Second):
			return os.ErrDeadlineExceeded
		}
	})
	return err == nil
}

// holder is where an agent connects.
type holder struct {
	t      *testing.T
	agents *protocol.Listener
}

// started starts an agent and returns it and where it connects.
func started(t *testing.T, staleAfter time.Duration) (*Listener, *holder) {
	t.Helper()
	testnet.Require(t)
	socket := filepath.Join(t.TempDir(), "holder.sock")
	agents, err := protocol.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	l := New(socket, 8, seven{}, hostpods.NewSet(), testr.New(t))
	l.staleAfter = staleAfter
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		_ = agents.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}))
	return l, &holder{t, agents}
}

// accept waits for the agent to connect.
func (h *holder) accept() *protocol.Conn {
	h.t.Helper()
	late := time.AfterFunc(20*time.Second, func() { _ = h.agents.Close() })
	defer late.Stop()
	c, err := h.agents.Accept()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (h *holder) send(c *protocol.Conn, m protocol.Message, files ...*os.File) {
	h.t.Helper()
	if err := c.Send(m, files...); err != nil {
		h.t.Fatal(err)
	}
}

func appeared(s *netns.Sockets) protocol.Message {
	return protocol.Message{Kind: protocol.Appeared, Namespace: "pod", Cookie: s.Cookie, Address: s.Address}
}

// count returns how many entrances there are.
func (l *Listener) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.entrances {
		n += len(all)
	}
	return n
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	check := func(context.Context) (bool, error) { return condition(), nil }
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 20*time.Second, true, check)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// TestHolderReplaced: sockets that an earlier holder passed are served until the next one has
// passed all of its own, and for a while longer. Then they are closed, so that they keep no
// namespace.
func TestHolderReplaced(t *testing.T) {
	for name, staleAfter := range map[string]time.Duration{"at first": time.Hour, "later": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			kept, dead := newPod(t), newPod(t)
			l, h := started(t, staleAfter)
			old, oldDiag := kept.sockets()
			last, lastDiag := dead.sockets()
			c := h.accept()
			h.send(c, appeared(old), old.Listener, oldDiag)
			h.send(c, appeared(last), last.Listener, lastDiag)
			h.send(c, protocol.Message{Kind: protocol.Complete})
			<-l.Complete()
			_ = c.Close()

			c = h.accept()
			renewed, diag := kept.sockets()
			h.send(c, appeared(renewed), renewed.Listener, diag)
			eventually(t, "all passed", func() bool { return l.count() == 3 })
			if !kept.served(l, old.Address) || !kept.served(l, renewed.Address) || !dead.served(l, last.Address) {
				t.Error("not served before the next holder has passed all")
			}
			h.send(c, protocol.Message{Kind: protocol.Complete})
			if staleAfter == time.Hour {
				third, diag := newPod(t).sockets()
				h.send(c, appeared(third), third.Listener, diag)
				eventually(t, "none closed at Complete", func() bool { return l.count() == 4 })
				if !kept.served(l, old.Address) || !kept.served(l, renewed.Address) || !dead.served(l, last.Address) {
					t.Error("not served right after the next holder has passed all")
				}
				return
			}
			eventually(t, "stale ones closed", func() bool { return l.count() == 1 })
			if !kept.served(l, renewed.Address) {
				t.Error("the next holder's sockets are not served")
			}
		})
	}
}

// TestPassedAgain: a listener that is passed again, by the same holder, is kept as it is.
func TestPassedAgain(t *testing.T) {
	pod := newPod(t)
	l, h := started(t, time.Millisecond)
	s, diag := pod.sockets()
	for range 2 {
		c := h.accept()
		h.send(c, appeared(s), s.Listener, diag)
		h.send(c, protocol.Message{Kind: protocol.Complete})
		<-l.Complete()
		if !pod.served(l, s.Address) || l.count() != 1 {
			t.Errorf("not served, or not once: %d", l.count())
		}
		_ = c.Close()
	}
}

// TestMixed: a listener and a sock_diag socket of different namespaces are not used. The agent
// connects again, with growing pauses, until it gets what it can use.
func TestMixed(t *testing.T) {
	pod, other := newPod(t), newPod(t)
	l, h := started(t, time.Millisecond)
	s, diag := pod.sockets()
	elsewhere, elsewhereDiag := other.sockets()
	start := time.Now()
	for _, wrong := range []struct {
		s    *netns.Sockets
		diag *os.File
	}{{s, elsewhereDiag}, {elsewhere, elsewhereDiag}, {s, elsewhereDiag}} {
		c := h.accept()
		m := appeared(s)
		h.send(c, m, wrong.s.Listener, wrong.diag)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				if _, err := c.ReceiveRequest(); err != nil {
					return
				}
			}
		}()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the agent stays connected")
		}
	}
	c := h.accept()
	if took := time.Since(start); took < 7*firstPause {
		t.Errorf("connected 3 times again in %s: the pauses do not grow", took)
	}
	if n := l.count(); n != 0 {
		t.Errorf("%d namespaces with the wrong sockets", n)
	}
	h.send(c, appeared(s), s.Listener, diag)
	h.send(c, protocol.Message{Kind: protocol.Complete})
	<-l.Complete()
	if !pod.served(l, s.Address) {
		t.Error("not served with the right sockets")
	}
}

// TestAsks: the holder is asked to capture the pods on the node's network, again when they change,
// and by each new connection.
func TestAsks(t *testing.T) {
	l, h := started(t, time.Hour)
	hosts := l.hosts.(*hostpods.Set)
	want := func(c *protocol.Conn, uids ...string) {
		t.Helper()
		r, err := c.ReceiveRequest()
		if err != nil || r.Kind != protocol.HostPods || !slices.Equal(r.Pods, uids) {
			t.Fatalf("asked %+v, %v, want %q", r, err, uids)
		}
	}
	const first, second = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
	c := h.accept()
	want(c)
	hosts.Set(types.NamespacedName{Name: "first"}, first)
	want(c, first)
	hosts.Appeared(first)
	want(c, first)
	_ = c.Close()
	hosts.Set(types.NamespacedName{Name: "second"}, second)
	want(h.accept(), first, second)
}
