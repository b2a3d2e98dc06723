// Publishing the listeners that an agent has.

package hook

import (
	"context"
	"errors"
	"time"

	"github.com/podid-io/podid/internal/hook/generation"
)

const (
	// reconcileInterval bounds how long pods are without a listener after a newer holder has ended
	// without a successor: then this one publishes its own again.
	reconcileInterval = time.Second
	// agentGrace is how long a listener stays published that no agent has. Until then clients wait
	// for the agent to be restarted. Afterward they are refused, so that they do not hang.
	agentGrace = 30 * time.Second
	// unknownGrace is how long a listener stays published whose namespace this holder does not know.
	// An older holder may have published it for a pod that is just starting.
	unknownGrace = 10 * time.Second
)

// reconcileLoop publishes and withdraws listeners at intervals until ctx ends.
func (h *Holder) reconcileLoop(ctx context.Context) {
	ticker := time.NewTicker(reconcileInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h.mu.Lock()
			h.reconcile()
			h.mu.Unlock()
		}
	}
}

// completed handles that an agent was passed all sockets: this holder takes over from older ones.
func (h *Holder) completed(a *agent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.ready = true
	h.reconcile()
}

// passed handles that an agent was passed the sockets of a namespace. If their listener cannot be
// published, reconcile retries.
func (h *Holder) passed(a *agent, n *namespace) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.namespaces[n.sockets.Cookie] != n {
		return // vanished meanwhile
	}
	a.has[n] = true
	if a.ready {
		h.change(func() error { return h.publish(n) })
	}
}

// change runs f, which publishes or withdraws, unless a newer holder does. The caller must hold mu.
func (h *Holder) change(f func() error) {
	err := h.config.Generation.Do(f)
	if err != nil && !errors.Is(err, generation.ErrNewer) {
		h.complainLocked(err, "cannot update the published listeners and captured pods, retrying")
	}
}

// reconcile publishes each listener that an agent has, whatever was published before, and withdraws
// the others. The caller must hold mu.
func (h *Holder) reconcile() {
	ready, now := h.setReady(), h.now()
	for _, n := range h.namespaces {
		if h.served(n) {
			n.served = now
		}
	}
	h.change(func() error {
		var failed error // one of them: they fail for the same reason, such as a full map
		for _, n := range h.namespaces {
			if err := h.update(n, now); err != nil {
				failed = err
			}
		}
		if ready && h.settled && !h.unopened() {
			failed = errors.Join(failed, h.withdrawUnknown(now))
		}
		return errors.Join(failed, h.captureHostPods())
	})
	if ready {
		h.reportReady()
	}
}

// reportReady calls Ready once. The caller must hold mu.
func (h *Holder) reportReady() {
	if h.config.Ready == nil || h.reported {
		return
	}
	if err := h.config.Ready(); err != nil {
		h.complainLocked(err, "cannot close what is open until pods are served, retrying")
		return
	}
	h.reported = true
}

// setReady shows other holders whether this one has an agent that can serve, and returns it. The
// caller must hold mu.
func (h *Holder) setReady() bool {
	ready := false
	for a := range h.agents {
		ready = ready || a.ready
	}
	ready = ready && !h.retired
	if err := h.config.Generation.SetReady(ready); err != nil {
		h.complainLocked(err, "cannot tell other holders whether this one publishes, retrying")
	}
	return ready
}

// retire lets other holders publish for good. If there is none, remove is called, which removes the
// programs: another agent serves pods, on the wire.
func (h *Holder) retire(remove func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retired = true
	h.setReady()
	err := h.config.Generation.Do(remove)
	if errors.Is(err, generation.ErrNewer) {
		return nil
	}
	return err
}

// served reports whether an agent that is ready has a namespace's sockets. The caller must hold mu.
func (h *Holder) served(n *namespace) bool {
	for a := range h.agents {
		if a.ready && a.has[n] {
			return true
		}
	}
	return false
}

// update publishes a listener, or withdraws it if no agent has had it for a while. A listener that
// an earlier holder published is left alone: its agent may serve it.
func (h *Holder) update(n *namespace, now time.Time) error {
	switch {
	case h.served(n):
		return h.publish(n)
	case !n.published || now.Sub(n.served) < agentGrace:
		return nil
	}
	if err := h.config.Programs.Withdraw(n.sockets.Cookie); err != nil {
		return err
	}
	n.published = false
	h.log.Info("withdrew a listener that no agent serves, so the pod's requests are refused", "namespace", n.name)
	return nil
}

func (h *Holder) publish(n *namespace) error {
	if err := h.config.Programs.Publish(n.sockets.Cookie, n.sockets.Address); err != nil {
		return err
	}
	n.published = true
	return nil
}

// withdraw withdraws the listener of a namespace that has vanished. The caller must hold mu.
func (h *Holder) withdraw(n *namespace) {
	h.change(func() error { return h.config.Programs.Withdraw(n.sockets.Cookie) })
}

// withdrawUnknown withdraws the listeners of namespaces that vanished while no holder ran. The
// caller must hold mu.
func (h *Holder) withdrawUnknown(now time.Time) error {
	published, err := h.config.Programs.Published()
	if err != nil {
		return err
	}
	before := h.unknown
	h.unknown = map[uint64]time.Time{}
	var failed error
	for _, cookie := range published {
		if h.namespaces[cookie] != nil {
			continue
		}
		since, known := before[cookie]
		if !known {
			since = now
		}
		h.unknown[cookie] = since
		if now.Sub(since) < unknownGrace {
			continue
		}
		if err := h.config.Programs.Withdraw(cookie); err != nil {
			failed = err
		}
	}
	return failed
}
