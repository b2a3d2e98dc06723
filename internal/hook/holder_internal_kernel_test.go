package hook

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
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
	broken    error
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
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testnet.Require(t)
	return &rig{
		t: t, namespaces: hooktest.NewNamespaces(t), lock: filepath.Join(t.TempDir(), "lock"),
		endpoints: &endpoints{published: map[uint64]netip.AddrPort{}}, clock: time.Now(),
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

// TestComplete: an agent that connects early is told that it has all only when each namespace was
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

// TestNoFolder: without a folder there are no namespaces, until it appears.
func TestNoFolder(t *testing.T) {
	r := newRig(t)
	r.namespaces.Folder = filepath.Join(r.namespaces.Folder, "netns")
	h := r.holder()
	h.run()
	agent := h.dial()
	agent.want("complete")
	if err := os.Mkdir(r.namespaces.Folder, 0o700); err != nil {
		t.Fatal(err)
	}
	r.pod("pod-a")
	agent.want("+pod-a")
}

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

// TestPublishErrors: what cannot be published is passed on all the same, and published later.
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
	h, failures := r.holder(), 3
	h.openDiag = func(s *netns.Sockets) (*os.File, error) { // called by the only agent's goroutine
		if s.Cookie == a && failures > 0 {
			failures--
			return nil, unix.EINVAL
		}
		return s.Diag()
	}
	h.run()
	agent := h.dial()
	agent.want("complete", "+pod-a")
	r.wantPublished("passed later", map[uint64]uint16{a: firstPort})
}

// TestUnmounted: a namespace whose file the runtime has unmounted but not removed does not disturb
// the others.
func TestUnmounted(t *testing.T) {
	r := newRig(t)
	r.pod("pod-a")
	h := r.holder()
	h.run()
	h.dial().want("+pod-a", "complete")
	path := filepath.Join(r.namespaces.Folder, "pod-a")
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	agent := h.dial()
	agent.want("+pod-a", "complete")
	r.pod("pod-b")
	agent.want("+pod-b")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	agent.want("-pod-a")
}

// TestTwoFiles: a namespace with two files is kept until both are removed.
func TestTwoFiles(t *testing.T) {
	r := newRig(t)
	pod := testnet.New(t)
	r.namespaces.Add("pod-a", pod)
	h := r.holder()
	h.run()
	agent := h.dial()
	agent.want("+pod-a", "complete")
	r.namespaces.Add("spare", pod)
	r.eventually("the second file is known", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		f := h.files[filepath.Join(r.namespaces.Folder, "spare")]
		return f != nil && f.namespace != nil
	})
	r.namespaces.Remove("pod-a")
	b := r.pod("pod-b")
	agent.want("+pod-b")
	r.wantPublished("with the second file", map[uint64]uint16{r.cookie(pod): firstPort, b: firstPort})
	r.namespaces.Remove("spare")
	agent.want("-pod-a")
	r.wantPublished("without", map[uint64]uint16{b: firstPort})
}

// TestReplaced: if a file leads to another namespace and nothing has told so, the next listing
// finds it.
func TestReplaced(t *testing.T) {
	r := newRig(t)
	r.pod("pod")
	h := r.holder()
	path := filepath.Join(r.namespaces.Folder, "pod")
	opened := func() *namespace { // a listing that has found the file
		t.Helper()
		var group errgroup.Group
		h.appeared(t.Context(), &group, path)
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		return h.files[path].namespace
	}
	first := opened()
	if again := opened(); again != first {
		t.Error("the same namespace was opened again")
	}
	r.namespaces.Remove("pod")
	cookie := r.pod("pod")
	second := opened()
	if second.sockets.Cookie != cookie || len(h.namespaces) != 1 {
		t.Errorf("has namespace %d, want %d, of %d", second.sockets.Cookie, cookie, len(h.namespaces))
	}
	if _, err := first.sockets.Listener.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the sockets of the first are open: %v", err)
	}
	h.close()
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

// TestOpens: few attempts to open sockets are under way at once.
func TestOpens(t *testing.T) {
	r := newRig(t)
	const files = 10 * maxOpens
	for i := range files {
		if err := os.WriteFile(filepath.Join(r.namespaces.Folder, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := r.holder()
	var mu sync.Mutex
	var now, most, all int
	gate := make(chan struct{})
	h.openSockets = func(string, netip.AddrPort) (*netns.Sockets, error) {
		mu.Lock()
		all++
		now++
		most = max(most, now)
		mu.Unlock()
		<-gate
		mu.Lock()
		now--
		mu.Unlock()
		return nil, unix.EINVAL
	}
	h.run()
	r.eventually("some are tried", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return now >= maxOpens
	})
	close(gate)
	r.eventually("all are tried", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return all >= files
	})
	mu.Lock()
	defer mu.Unlock()
	if most > maxOpens {
		t.Errorf("%d at once, want %d at most", most, maxOpens)
	}
}

// TestNothingLeft: of namespaces that have come and gone, nothing is open.
func TestNothingLeft(t *testing.T) {
	r := newRig(t)
	var pods []*testnet.Net
	for range 20 {
		pods = append(pods, testnet.New(t))
	}
	h := r.holder()
	h.run()
	agent := h.dial()
	agent.want("complete")
	before := openFiles(t)
	for range 3 {
		for i, pod := range pods {
			name := fmt.Sprint("pod-", i)
			r.namespaces.Add(name, pod)
			agent.want("+" + name)
		}
		for i := range pods {
			name := fmt.Sprint("pod-", i)
			r.namespaces.Remove(name)
			agent.want("-" + name)
		}
	}
	r.eventually("files closed", func() bool { return openFiles(t) == before })
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.files)+len(h.namespaces) > 0 || len(r.endpoints.all()) > 0 {
		t.Errorf("%d files, %d namespaces, published: %v", len(h.files), len(h.namespaces), r.endpoints.all())
	}
}

// openFiles returns how many files this process has open.
func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
