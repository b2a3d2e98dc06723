package hook

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// TestComplete: an agent that connects early gets Complete only when each namespace was
// opened once. One that cannot be opened does not keep it waiting.
func TestComplete(t *testing.T) {
	r := newRig(t)
	r.pod("pod-a")
	if err := os.WriteFile(filepath.Join(r.namespaces.Folder, "stale"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, gate := r.holder(), make(chan struct{})
	h.openSockets = func(path string, at netip.AddrPort) (*netns.Sockets, error) {
		<-gate
		return netns.Open(path, at)
	}
	h.run()
	agent := h.dial()
	r.eventually("the agent is connected", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.agents) == 1 && h.listed
	})
	close(gate)
	agent.want("+pod-a", "complete")
	h.dial().want("+pod-a", "complete")
}

// brokenAgents is where agents cannot connect at first.
type brokenAgents struct {
	Agents
	errs []error
}

func (a *brokenAgents) Accept() (*protocol.Conn, error) {
	if len(a.errs) > 0 {
		err := a.errs[0]
		a.errs = a.errs[1:]
		return nil, err
	}
	return a.Agents.Accept()
}

// TestAcceptErrors: agents are accepted after errors. Peers that are none cause no pause.
func TestAcceptErrors(t *testing.T) {
	r := newRig(t)
	h := r.holder()
	errs := []error{unix.EMFILE, unix.ECONNABORTED}
	for range 20_000 { // with pauses they would take hours
		errs = append(errs, protocol.ErrPeer)
	}
	h.config.Agents = &brokenAgents{h.config.Agents, errs}
	h.run()
	h.dial().want("complete")
}

// TestPassErrors: sockets that cannot be prepared are passed later. Others do not wait.
func TestPassErrors(t *testing.T) {
	r := newRig(t)
	a := r.pod("pod-a")
	h, prepared := r.holder(), make(chan struct{})
	h.openDiag = func(s *netns.Sockets) (*os.File, error) {
		select {
		case <-prepared:
			return s.Diag()
		default:
			return nil, unix.EINVAL
		}
	}
	h.run()
	agent := h.dial()
	agent.want("complete")
	close(prepared)
	agent.want("+pod-a")
	r.wantPublished("passed later", map[uint64]uint16{a: firstPort})
}
