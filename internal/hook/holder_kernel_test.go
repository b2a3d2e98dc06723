package hook_test

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/agent/hostpods"
	"github.com/podid-io/podid/internal/agent/inpod"
	"github.com/podid-io/podid/internal/agent/podgroups"
	"github.com/podid-io/podid/internal/hook"
	"github.com/podid-io/podid/internal/hook/generation"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/testnet"
)

const (
	uidA    = "00000000-0000-4000-8000-00000000000a"
	uidB    = "00000000-0000-4000-8000-00000000000b"
	nobody  = "nobody"
	refused = "connection refused"
)

// world is a node with control groups, a folder of network namespaces, and the programs' place.
type world struct {
	t          *testing.T
	node       *testnet.Net
	namespaces *hooktest.Namespaces
	kubepods   string
	groupA     string
	groupB     string
	system     string
	pins       string
	lock       string
	programs   program.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	hooktest.Require(t)
	top := hooktest.Groups(t)
	w := &world{
		t: t, node: testnet.New(t), namespaces: hooktest.NewNamespaces(t), pins: hooktest.Pins(t),
		kubepods: hooktest.Group(t, top, "kubepods"),
		groupA:   hooktest.Group(t, top, "kubepods", "besteffort", "pod"+uidA, "app"),
		groupB:   hooktest.Group(t, top, "kubepods", "pod"+uidB, "app"),
		system:   hooktest.Group(t, top, "system"),
		lock:     filepath.Join(t.TempDir(), "lock"),
	}
	pods, err := program.GroupID(w.kubepods)
	if err != nil {
		t.Fatal(err)
	}
	w.programs = program.Config{Metadata: netip.MustParseAddrPort("169.254.169.254:80"), Node: w.cookie(w.node), Pods: pods}
	return w
}

func (w *world) cookie(in *testnet.Net) (cookie uint64) {
	w.t.Helper()
	if err := in.Do(func() (err error) { cookie, err = netns.Cookie(); return err }); err != nil {
		w.t.Fatal(err)
	}
	return cookie
}

// process is a holder or an agent that runs.
type process struct {
	once sync.Once
	stop func()
}

func (p *process) end() { p.once.Do(p.stop) }

// running runs f until the process or the test ends.
func (w *world) running(f func(context.Context) error, after ...func()) *process {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	p := &process{stop: func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		for _, f := range after {
			f()
		}
	}}
	w.t.Cleanup(p.end)
	return p
}

// holder starts a holder, to which agents connect at a path.
func (w *world) holder(socket string) (*process, *program.Hook) {
	w.t.Helper()
	programs, err := program.Attach(w.programs, w.kubepods, w.pins)
	if err != nil {
		w.t.Fatal(err)
	}
	agents, err := protocol.Listen(w.t.Context(), socket)
	if err != nil {
		w.t.Fatal(err)
	}
	place, err := generation.Open(w.lock)
	if err != nil {
		w.t.Fatal(err)
	}
	h := hook.New(hook.Config{
		Programs: programs, Generation: place, Folder: w.namespaces.Folder, Node: w.programs.Node,
		Listen: netip.MustParseAddrPort("127.0.0.1:64579"), Agents: agents,
	}, testr.New(w.t))
	return w.running(h.Run, programs.Close, func() { _ = place.Close() }), programs
}

// perNamespace is how many connections an agent has open in a namespace.
const perNamespace = 64

// agent starts an agent that answers with the caller's UID, and waits for its sockets.
func (w *world) agent(socket string) *process {
	w.t.Helper()
	index := podgroups.New(w.kubepods)
	listener := inpod.New(socket, perNamespace, index, hostpods.NewSet(), testr.New(w.t))
	type caller struct{}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, caller{}, c.(*inpod.Conn).Pod)
		},
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			uid := r.Context().Value(caller{}).(string)
			_, _ = io.WriteString(rw, cmp.Or(uid, nobody))
		}),
	}
	indexing := w.running(index.Run)
	go func() { _ = server.Serve(listener) }()
	p := w.running(listener.Run, func() { _ = server.Close() }, indexing.end)
	<-listener.Complete()
	return p
}

// pod makes a pod's network namespace and returns it.
func (w *world) pod(name string) *testnet.Net {
	w.t.Helper()
	n := testnet.New(w.t)
	testnet.Veth(w.t, w.node, name, n, "eth0")
	n.Address(w.t, "eth0", "10.244.0.2/24")
	n.Route(w.t, "0.0.0.0/0", "10.244.0.1", "eth0")
	w.namespaces.Add(name, n)
	return n
}

// answers waits until a client gets an answer.
func (w *world) answers(in *testnet.Net, group, want string) {
	w.t.Helper()
	last := ""
	err := wait.PollUntilContextTimeout(w.t.Context(), 10*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		last = hooktest.Client(w.t, in, group, "connect")
		return last == want, nil
	})
	if err != nil {
		w.t.Errorf("got %q, want %q", last, want)
	}
}

// constantly lets a pod ask again and again. The function that it returns ends this, and returns
// the answers that were wrong.
func (w *world) constantly(in *testnet.Net, group, want string) (failed func() []string) {
	end, wrong := make(chan struct{}), make(chan []string)
	go func() {
		var got []string
		for {
			select {
			case <-end:
				wrong <- got
				return
			default:
			}
			if answer := hooktest.Client(w.t, in, group, "connect"); answer != want {
				got = append(got, answer)
			}
		}
	}()
	return func() []string {
		close(end)
		return <-wrong
	}
}

// TestPods: a pod's connection arrives at the agent, which learns from the kernel who it is.
func TestPods(t *testing.T) {
	w, socket := newWorld(t), filepath.Join(t.TempDir(), "holder.sock")
	a := w.pod("pod-a")
	w.holder(socket)
	w.answers(a, w.groupA, refused) // no agent yet
	w.agent(socket)
	w.answers(a, w.groupA, uidA)
	b := w.pod("pod-b")
	w.answers(b, w.groupB, uidB)
	for way, got := range hooktest.Clients(t, a, w.groupA, hooktest.Ways()...) {
		if got != uidA {
			t.Errorf("%s: %q, want %s", way, got, uidA)
		}
	}
	if got := hooktest.Client(t, a, w.groupB, "connect"); got != uidB {
		t.Errorf("a process of pod B in pod A's network: %q, want B", got)
	}
	nested := hooktest.Group(t, w.groupA, "pod"+uidB)
	if got := hooktest.Client(t, a, nested, "connect"); got != uidA {
		t.Errorf("in a group that pod A named after pod B: %q, want A", got)
	}
}

// TestAgentReplaced: connections wait while the agent is away.
func TestAgentReplaced(t *testing.T) {
	w, socket := newWorld(t), filepath.Join(t.TempDir(), "holder.sock")
	a := w.pod("pod-a")
	w.holder(socket)
	agent := w.agent(socket)
	w.answers(a, w.groupA, uidA)
	agent.end()
	got := make(chan string)
	go func() { got <- hooktest.Client(t, a, w.groupA, "connect") }()
	w.agent(socket)
	if got := <-got; got != uidA {
		t.Errorf("without an agent for a moment: %q, want %s", got, uidA)
	}
}

// TestHolderReplaced: pods are served while the holder is away, and by the next one's sockets.
func TestHolderReplaced(t *testing.T) {
	w, socket := newWorld(t), filepath.Join(t.TempDir(), "holder.sock")
	a := w.pod("pod-a")
	first, _ := w.holder(socket)
	w.agent(socket)
	w.answers(a, w.groupA, uidA)
	first.end()
	w.answers(a, w.groupA, uidA)
	_, programs := w.holder(socket)
	b := w.pod("pod-b")
	w.answers(b, w.groupB, uidB)
	w.answers(a, w.groupA, uidA)
	w.namespaces.Remove("pod-a")
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		published, err := programs.Published()
		return len(published) == 1 && published[0] == w.cookie(b), err
	})
	if err != nil {
		t.Errorf("the listener of a namespace that is gone: %v", err)
	}
	w.answers(a, w.groupA, refused)
}

// TestRolled: while a newer holder and its agent take over, and if they end too early, no request
// of a pod fails, also of one that starts meanwhile.
func TestRolled(t *testing.T) {
	w, folder := newWorld(t), t.TempDir()
	older, newer := filepath.Join(folder, "older.sock"), filepath.Join(folder, "newer.sock")
	a := w.pod("pod-a")
	w.holder(older)
	olderAgent := w.agent(older)
	w.answers(a, w.groupA, uidA)

	failed := w.constantly(a, w.groupA, uidA)
	newerHolder, _ := w.holder(newer)
	b := w.pod("pod-b") // no agent has the newer holder's sockets
	w.answers(b, w.groupB, uidB)
	newerAgent := w.agent(newer)
	if got := failed(); len(got) > 0 {
		t.Errorf("failed while the newer holder took over: %q", got)
	}
	olderAgent.end()
	for _, pod := range []struct {
		in         *testnet.Net
		group, uid string
	}{{a, w.groupA, uidA}, {b, w.groupB, uidB}} {
		if got := hooktest.Client(t, pod.in, pod.group, "connect"); got != pod.uid {
			t.Errorf("without the older agent: %q, want %s", got, pod.uid)
		}
	}
	w.agent(older)
	newerHolder.end()
	newerAgent.end()
	w.answers(a, w.groupA, uidA) // the older publishes again
	w.answers(b, w.groupB, uidB)
}
