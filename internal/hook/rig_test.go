// A node with namespaces, holders and agents, for tests. What is published is only remembered.

package hook

import (
	"context"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/generation"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/testnet"
)

var listen = netip.MustParseAddrPort("127.0.0.1:64579")

// endpoints are Programs that only remember what is published.
type endpoints struct {
	mu        sync.Mutex
	published map[uint64]netip.AddrPort
	captured  map[uint64]bool
	broken    error
}

func (e *endpoints) Capture(group uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken == nil {
		e.captured[group] = true
	}
	return e.broken
}

func (e *endpoints) Free(group uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.captured, group)
	return nil
}

func (e *endpoints) Captured() ([]uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.captured)), nil
}

func (e *endpoints) Publish(cookie uint64, at netip.AddrPort) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken == nil {
		e.published[cookie] = at
	}
	return e.broken
}

func (e *endpoints) Withdraw(cookie uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.published, cookie)
	return nil
}

func (e *endpoints) Published() (cookies []uint64, err error) {
	for cookie := range e.all() {
		cookies = append(cookies, cookie)
	}
	return cookies, nil
}

func (e *endpoints) all() map[uint64]netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.published)
}

func (e *endpoints) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = err
}

// rig is a node with namespaces and what is published there.
type rig struct {
	t          *testing.T
	namespaces *hooktest.Namespaces
	endpoints  *endpoints
	lock       string
	clock      time.Time
	config     Config // what is not the same for all tests
}

func newRig(t *testing.T) *rig {
	t.Helper()
	hooktest.Require(t)
	return &rig{
		t: t, namespaces: hooktest.NewNamespaces(t), lock: filepath.Join(t.TempDir(), "lock"),
		endpoints: &endpoints{published: map[uint64]netip.AddrPort{}, captured: map[uint64]bool{}}, clock: time.Now(),
	}
}

// pod adds the namespace of a pod and returns its cookie.
func (r *rig) pod(name string) (cookie uint64) {
	r.t.Helper()
	n := testnet.New(r.t)
	r.namespaces.Add(name, n)
	return r.cookie(n)
}

func (r *rig) cookie(n *testnet.Net) (cookie uint64) {
	r.t.Helper()
	if err := n.Do(func() (err error) { cookie, err = netns.Cookie(); return err }); err != nil {
		r.t.Fatal(err)
	}
	return cookie
}

// node is a holder of the rig, and how to reach it.
type node struct {
	*Holder
	r      *rig
	socket string
	run    func() (end func())
}

func (r *rig) holder() *node {
	r.t.Helper()
	socket := filepath.Join(r.t.TempDir(), "holder.sock")
	agents, err := protocol.Listen(r.t.Context(), socket)
	if err != nil {
		r.t.Fatal(err)
	}
	place, err := generation.Open(r.lock)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _, _ = agents.Close(), place.Close() })
	h := New(Config{
		Programs: r.endpoints, Generation: place, Folder: r.namespaces.Folder, Listen: listen, Agents: agents,
		Node: r.config.Node, NodeFile: r.config.NodeFile, Group: r.config.Group,
	}, testr.New(r.t))
	h.now = func() time.Time { return r.clock }
	return &node{Holder: h, r: r, socket: socket, run: func() func() {
		ctx, cancel := context.WithCancel(r.t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		end := sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		})
		r.t.Cleanup(end)
		return end
	}}
}

// client is an agent that only receives.
type client struct {
	t    *testing.T
	conn *protocol.Conn
}

func (n *node) dial() *client {
	n.r.t.Helper()
	conn, err := protocol.Dial(n.r.t.Context(), n.socket)
	if err != nil {
		n.r.t.Fatal(err)
	}
	n.r.t.Cleanup(func() { _ = conn.Close() })
	return &client{n.r.t, conn}
}

var signs = map[protocol.Kind]string{
	protocol.Appeared: "+", protocol.Vanished: "-", protocol.Complete: "complete",
}

// want receives messages, in this order: "+name", "-name" and "complete".
func (c *client) want(want ...string) {
	c.t.Helper()
	late := time.AfterFunc(20*time.Second, func() { _ = c.conn.Close() })
	defer late.Stop()
	for _, w := range want {
		m, files, err := c.conn.Receive()
		if err != nil {
			c.t.Fatalf("%v, want %s", err, w)
		}
		for _, f := range files {
			_ = f.Close()
		}
		if got := signs[m.Kind] + m.Namespace; got != w {
			c.t.Fatalf("received %s, want %s", got, w)
		}
	}
}

// reconciled lets the holder update what is published.
func (n *node) reconciled() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reconcile()
}

// after moves the clock.
func (n *node) after(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.r.clock = n.r.clock.Add(d)
}

// eventually waits for a condition.
func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	check := func(context.Context) (bool, error) { return condition(), nil }
	err := wait.PollUntilContextTimeout(r.t.Context(), time.Millisecond, 20*time.Second, true, check)
	if err != nil {
		r.t.Errorf("%s: %v; published: %v", what, err, r.endpoints.all())
	}
}

// wantPublished waits until exactly these ports are published, by cookie.
func (r *rig) wantPublished(what string, want map[uint64]uint16) {
	r.t.Helper()
	r.eventually(what, func() bool { return r.isPublished(want) })
}

// isPublished reports whether exactly these ports are published.
func (r *rig) isPublished(want map[uint64]uint16) bool {
	got := map[uint64]uint16{}
	for cookie, at := range r.endpoints.all() {
		got[cookie] = at.Port()
	}
	return maps.Equal(got, want)
}

const firstPort, secondPort = 64579, 64580
