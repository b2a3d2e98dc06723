package hook

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/testnet"
)

const (
	uid1 = "00000000-0000-4000-8000-000000000001"
	uid2 = "00000000-0000-4000-8000-000000000002"
	uid3 = "0123456789abcdef0123456789abcdef"
)

// hosts is a rig whose node has pods on its own network.
type hosts struct {
	*rig
	node uint64            // cookie of the node's namespace
	pods string            // folder of the pods' group
	ids  map[string]uint64 // of pods' groups, by UID
}

func newHosts(t *testing.T, allowed bool) *hosts {
	r := newRig(t)
	own, file := testnet.New(t), hooktest.NewNamespaces(t)
	file.Add("file", own)
	r.namespaces.Add("node's own", own) // is left alone there
	w := &hosts{rig: r, node: r.cookie(own), pods: hooktest.Group(t, hooktest.Groups(t), "kubepods"), ids: map[string]uint64{}}
	r.config = Config{Node: w.node, Group: w.pods}
	if allowed {
		r.config.NodeFile = filepath.Join(file.Folder, "file")
	}
	return w
}

// group makes the control group of a pod.
func (w *hosts) group(class, uid string) {
	w.t.Helper()
	id, err := program.GroupID(hooktest.Group(w.t, w.pods, class, "pod"+uid))
	if err != nil {
		w.t.Fatal(err)
	}
	w.ids[uid] = id
}

func (w *hosts) removeGroup(class, uid string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.pods, class, "pod"+uid)); err != nil {
		w.t.Fatal(err)
	}
}

// wantCaptured waits until exactly these pods are captured.
func (w *hosts) wantCaptured(what string, uids ...string) {
	w.t.Helper()
	want := []uint64{}
	for _, uid := range uids {
		want = append(want, w.ids[uid])
	}
	slices.Sort(want)
	w.eventually(what, func() bool {
		got, _ := w.endpoints.Captured()
		return slices.Equal(got, want)
	})
}

func (c *client) ask(uids ...string) {
	c.t.Helper()
	if err := c.conn.Ask(protocol.Request{Kind: protocol.HostPods, Pods: uids}); err != nil {
		c.t.Fatal(err)
	}
}

// TestHostPods: exactly the pods on the node's network are captured that the agent asks for, once
// they have a control group, and a listener is published for them. Without an agent all stays as it
// is, until another one asks for others.
func TestHostPods(t *testing.T) {
	w := newHosts(t, true)
	w.group("burstable", uid1)
	w.group("", uid2)
	h := w.holder()
	h.run()
	agent := h.dial()
	agent.want("+node", "complete")
	w.wantPublished("the node's listener", map[uint64]uint16{w.node: firstPort})
	agent.ask(uid1, uid3)
	w.wantCaptured("the pod with a group", uid1)
	w.group("besteffort", uid3)
	w.wantCaptured("the pod whose group has appeared", uid1, uid3)
	agent.ask(uid2, uid3)
	w.wantCaptured("others", uid2, uid3)

	_ = agent.conn.Close()
	w.eventually("the agent is gone", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.agents) == 0
	})
	h.reconciled()
	w.wantCaptured("without an agent", uid2, uid3)
	next := h.dial()
	next.want("+node", "complete")
	h.reconciled()
	w.wantCaptured("before the next agent asks", uid2, uid3)
	next.ask(uid2)
	w.wantCaptured("what the next agent asks for", uid2)
	next.ask()
	w.wantCaptured("none")
}

// TestHostPodsAtOnce: what an agent asks for is captured at once, from when it has all sockets.
func TestHostPodsAtOnce(t *testing.T) {
	w := newHosts(t, true)
	w.group("burstable", uid1)
	w.group("burstable", uid2)
	h := w.holder() // without its loops
	agent := h.dial()
	conn, err := h.config.Agents.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a := h.connect(conn)
	done := make(chan struct{})
	go func() { defer close(done); h.receive(t.Context(), a) }()
	agent.ask(uid1)
	w.eventually("asked", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return a.asked
	})
	h.reconciled()
	w.wantCaptured("none yet")
	h.completed(a)
	w.wantCaptured("the first", uid1)
	agent.ask(uid1, uid2)
	w.wantCaptured("both", uid1, uid2)
	_ = agent.conn.Close()
	<-done
}

// TestHostPodGone: a pod whose control group is gone is not captured any longer, and again under
// another ID if the group is made again.
func TestHostPodGone(t *testing.T) {
	w := newHosts(t, true)
	w.group("burstable", uid1)
	w.group("burstable", uid2)
	h := w.holder()
	h.run()
	agent := h.dial()
	agent.ask(uid1, uid2)
	agent.want("+node", "complete")
	w.wantCaptured("both", uid1, uid2)
	w.removeGroup("burstable", uid1)
	w.wantCaptured("the other", uid2)
	w.group("burstable", uid1)
	w.wantCaptured("both again", uid1, uid2)
}

// TestHostPodsOff: a holder that must not capture pods on the node's network ignores an agent that
// asks for it, has no listener there, and frees those that an earlier one has captured.
func TestHostPodsOff(t *testing.T) {
	w := newHosts(t, false)
	w.group("burstable", uid1)
	w.endpoints.captured[w.ids[uid1]] = true
	if err := w.endpoints.Publish(w.node, listen); err != nil {
		t.Fatal(err)
	}
	h := w.holder()
	h.run()
	agent := h.dial()
	agent.ask(uid1)
	agent.want("complete")
	w.wantCaptured("none")
	h.reconciled()
	h.after(unknownGrace)
	h.reconciled()
	w.wantPublished("no listener", map[uint64]uint16{})
}

// TestHostPodsOfTwo: while an agent is replaced, the older holder captures what its agent asks for
// until the newer one's has all sockets and asks.
func TestHostPodsOfTwo(t *testing.T) {
	w := newHosts(t, true)
	w.group("burstable", uid1)
	w.group("burstable", uid2)
	older := w.holder()
	older.run()
	first := older.dial()
	first.ask(uid1)
	first.want("+node", "complete")
	w.wantCaptured("the older agent's", uid1)
	newer := w.holder()
	end := newer.run()
	second := newer.dial()
	second.want("+node", "complete")
	newer.reconciled()
	w.wantCaptured("before the newer agent asks", uid1)
	second.ask(uid2)
	w.wantCaptured("the newer agent's", uid2)
	older.reconciled()
	w.wantCaptured("whatever the older agent asks for", uid2)
	end()
	older.reconciled()
	w.wantCaptured("the older agent's again", uid1)
}

// TestWrongRequest: an agent that sends something else is disconnected.
func TestWrongRequest(t *testing.T) {
	w := newHosts(t, true)
	h := w.holder()
	h.run()
	agent := h.dial()
	agent.want("+node", "complete")
	agent.ask("../" + uid1)
	if _, _, err := agent.conn.Receive(); err == nil {
		t.Error("the agent is still connected")
	}
	w.wantCaptured("none")
}
