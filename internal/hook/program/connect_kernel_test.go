package program

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/testnet"
)

// world is a pod and a node, each in a network namespace of its own, with the programs in place.
type world struct {
	pod, node   *testnet.Net
	podsGroup   string // on which the programs are
	podGroup    string
	systemGroup string
	pins        string
	config      Config
	egress      bool // whether the guard is also in nftables
	hook        *Hook
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, true)
}

// newWorldOf makes a world in which the metadata service is on the node, or nowhere.
func newWorldOf(t *testing.T, service bool) *world {
	t.Helper()
	hooktest.Require(t)
	top := hooktest.Groups(t)
	w := &world{
		pod: testnet.New(t), node: testnet.New(t),
		podsGroup:   hooktest.Group(t, top, "kubepods"),
		podGroup:    hooktest.Group(t, top, "kubepods", "pod1", "container"),
		systemGroup: hooktest.Group(t, top, "system"),
		pins:        hooktest.Pins(t),
	}
	testnet.Veth(t, w.node, "pod0", w.pod, "eth0")
	w.pod.Address(t, "eth0", "10.244.0.2/24")
	w.node.Address(t, "pod0", "10.244.0.1/24")
	w.pod.Route(t, "0.0.0.0/0", "10.244.0.1", "eth0")
	if service {
		w.node.Address(t, "lo", "169.254.169.254/32")
		serve(t, listenIn(t, w.node, "169.254.169.254:80"), "metadata service")
	}

	pods, err := GroupID(w.podsGroup)
	if err != nil {
		t.Fatal(err)
	}
	w.config = Config{
		Metadata: netip.MustParseAddrPort("169.254.169.254:80"),
		Closed:   []netip.AddrPort{netip.MustParseAddrPort("168.63.129.16:80"), netip.MustParseAddrPort("168.63.129.16:32526")},
		Node:     cookieIn(t, w.node), Pods: pods,
	}
	w.attach(t)
	return w
}

func (w *world) attach(t *testing.T) {
	t.Helper()
	var err error
	inNode(t, w, func() error { w.hook, err = Attach(w.config, w.podsGroup, w.pins); return err })
	w.hook.noEgress.Store(!w.egress)
	t.Cleanup(w.hook.Close)
}

// publish makes a listener in the pod's namespace, which answers with a text.
func (w *world) publish(t *testing.T, answer string) {
	t.Helper()
	l := listenIn(t, w.pod, "127.0.0.1:0")
	serve(t, l, answer)
	if err := w.hook.Publish(cookieIn(t, w.pod), l.Addr().(*net.TCPAddr).AddrPort()); err != nil {
		t.Fatal(err)
	}
}

func cookieIn(t *testing.T, in *testnet.Net) (cookie uint64) {
	t.Helper()
	if err := in.Do(func() (err error) { cookie, err = netns.Cookie(); return err }); err != nil {
		t.Fatal(err)
	}
	return cookie
}

func listenIn(t *testing.T, in *testnet.Net, address string) (l net.Listener) {
	t.Helper()
	if err := in.Do(func() (err error) { l, err = net.Listen("tcp4", address); return err }); err != nil {
		t.Fatal(err)
	}
	return l
}

func serve(t *testing.T, l net.Listener, answer string) {
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

const refused = "connection refused"

// TestConnect: every way to connect from a pod arrives at the listener in the pod's namespace, and
// is refused without one. What is in no pod's group, or on the node, reaches the service.
func TestConnect(t *testing.T) {
	w := newWorld(t)
	expect := func(in *testnet.Net, group, want string) {
		t.Helper()
		for way, got := range hooktest.Clients(t, in, group, hooktest.Ways()...) {
			if got != want {
				t.Errorf("%s: %q, want %q", way, got, want)
			}
		}
	}
	expect(w.pod, w.podGroup, refused) // no listener yet
	expect(w.pod, w.systemGroup, "metadata service")
	if got := hooktest.Client(t, w.node, w.podGroup, "connect"); got != "metadata service" {
		t.Errorf("on the node's network: %q", got)
	}
	w.publish(t, "agent")
	expect(w.pod, w.podGroup, "agent")
	nested := testnet.New(t)
	if got := hooktest.Client(t, nested, w.podGroup, "connect"); got != refused {
		t.Errorf("in a network namespace of the pod's own: %q", got)
	}
	if err := w.hook.Withdraw(cookieIn(t, w.pod)); err != nil {
		t.Fatal(err)
	}
	if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != refused {
		t.Errorf("after the listener was withdrawn: %q", got)
	}
	ways := uint64(len(hooktest.Ways()))
	for what, want := range map[Count]uint64{Diverted: ways + 1 /* one connects twice */, Refused: ways + 2, Passed: 1} {
		if got, err := w.hook.Count(what); err != nil || got != want {
			t.Errorf("count %d: %d, %v, want %d", what, got, err, want)
		}
	}
}

// TestOutlives: the programs stay when their process closes them, a successor replaces them and
// keeps what was published, and Remove opens the way again.
func TestOutlives(t *testing.T) {
	w := newWorld(t)
	w.publish(t, "agent")
	w.hook.Close()
	if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "agent" {
		t.Errorf("without a process: %q", got)
	}
	w.attach(t)
	if err := w.hook.Check(); err != nil {
		t.Error(err)
	}
	if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "agent" {
		t.Errorf("with a successor: %q", got)
	}
	if published, err := w.hook.Published(); err != nil || len(published) != 1 || published[0] != cookieIn(t, w.pod) {
		t.Errorf("published: %v, %v", published, err)
	}
	inNode(t, w, func() error { return Remove(w.pins) })
	w.hook.Close()
	if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "metadata service" {
		t.Errorf("after removal: %q", got)
	}
	if _, err := os.Stat(w.pins); !os.IsNotExist(err) {
		t.Errorf("the folder of the pins: %v", err)
	}
	if err := w.hook.Check(); err == nil {
		t.Error("the check passes without programs")
	}
}

// TestNoFileSystem: without a BPF file system, or when it is gone later, the error has the remedy.
func TestNoFileSystem(t *testing.T) {
	const remedy = "mount -t bpf bpf /sys/fs/bpf"
	for _, folder := range []string{t.TempDir(), "/no/such/folder"} {
		if _, err := Attach(Config{}, "/", folder+"/podid"); err == nil || !strings.Contains(err.Error(), remedy) {
			t.Errorf("in %s: error %v", folder, err)
		}
	}
	w := newUplinked(t)
	w.hook.pins = t.TempDir() + "/podid" // where none is
	if err := w.hook.Check(); err == nil || !strings.Contains(err.Error(), remedy) {
		t.Errorf("check: error %v", err)
	}
	inNode(t, w.world, func() error {
		for _, err := range []error{w.hook.Guard(w.uplink), w.hook.Guarded(w.uplink)} {
			if err == nil || !strings.Contains(err.Error(), remedy) {
				t.Errorf("guard: error %v", err)
			}
		}
		return nil
	})
}

// TestFull: with the map of listeners full, the error has the remedy. Pods that are in it are
// served, and others refused.
func TestFull(t *testing.T) {
	w := newWorld(t)
	w.publish(t, "agent")
	at := netip.MustParseAddrPort("127.0.0.1:64579")
	for cookie := range uint64(maxEndpoints - 1) {
		if err := w.hook.Publish(1<<40+cookie, at); err != nil {
			t.Fatal(err)
		}
	}
	late := testnet.New(t)
	if err := w.hook.Publish(cookieIn(t, late), at); err == nil || !strings.Contains(err.Error(), "8192 network namespaces") {
		t.Errorf("error %v", err)
	}
	if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "agent" {
		t.Errorf("a pod in the map: %q", got)
	}
	if got := hooktest.Client(t, late, w.podGroup, "connect"); got != refused {
		t.Errorf("a pod beyond the map: %q", got)
	}
}

// TestDeep: the guard finds the pods' group at its greatest depth, and Attach refuses a deeper one.
func TestDeep(t *testing.T) {
	w := newUplinked(t)
	top := filepath.Dir(w.podsGroup) // level 1
	deepest := hooktest.Group(t, top, slices.Repeat([]string{"level"}, maxDepth-1)...)
	pod := hooktest.Group(t, deepest, "pod")
	if _, err := Attach(w.config, pod, w.pins); err == nil || !strings.Contains(err.Error(), "levels deep") {
		t.Errorf("one deeper: %v", err)
	}
	var err error
	if w.config.Pods, err = GroupID(deepest); err != nil {
		t.Fatal(err)
	}
	w.podsGroup = deepest
	w.attach(t)
	w.guard(t)
	w.drops(t, w.node, pod, "AF_PACKET")
}

// TestUnprivileged: a program without capabilities arrives at the listener in every way but one. It
// may bind its socket to a device, but that cannot be undone for it: it gets an error at once.
func TestUnprivileged(t *testing.T) {
	w := newWorld(t)
	expect := func(others string) {
		t.Helper()
		for way, got := range hooktest.Unprivileged(t, w.pod, w.podGroup, hooktest.Ways()...) {
			want := others
			if way == "bound device" {
				want = unix.EPERM.Error()
			}
			if got != want {
				t.Errorf("%s: %q, want %q", way, got, want)
			}
		}
	}
	expect(refused)
	w.publish(t, "agent")
	expect("agent")
	if n, err := w.hook.Count(Refused); err != nil || n != uint64(len(hooktest.Ways())+1) {
		t.Errorf("refused: %d, %v", n, err)
	}
}

// TestPassAbsent: where something else answers pods, a pod without a listener reaches it, and one
// with a listener does not. Neither reaches another port.
func TestPassAbsent(t *testing.T) {
	for name, closed := range map[string][]netip.AddrPort{"closed services": {netip.MustParseAddrPort("168.63.129.16:80")}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.config.PassAbsent, w.config.Closed = true, closed
			w.attach(t)
			if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "metadata service" {
				t.Errorf("without a listener: %s", got)
			}
			otherPort := func(times uint64) { // that of the service refuses, too: the counter makes the difference
				t.Helper()
				got := hooktest.Client(t, w.pod, w.podGroup, hooktest.OtherPort)
				if n, err := w.hook.Count(Refused); got != refused || err != nil || n != times {
					t.Errorf("another port: %s, refused %d times, want %d, %v", got, n, times, err)
				}
			}
			otherPort(1)
			serve(t, listenIn(t, w.pod, "127.0.0.1:64579"), "listener")
			if err := w.hook.Publish(cookieIn(t, w.pod), netip.MustParseAddrPort("127.0.0.1:64579")); err != nil {
				t.Fatal(err)
			}
			if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "listener" {
				t.Errorf("with a listener: %s", got)
			}
			otherPort(2)
		})
	}
}
