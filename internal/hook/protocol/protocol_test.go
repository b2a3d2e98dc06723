package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// connected returns both ends of a connection.
func connected(t *testing.T) (holder, agent *Conn) {
	t.Helper()
	path, me := filepath.Join(t.TempDir(), "holder.sock"), uint32(os.Getuid())
	l, err := Listen(t.Context(), path, me)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	agent, err = dial(t.Context(), path, me)
	if err != nil {
		t.Fatal(err)
	}
	holder, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = holder.Close(), agent.Close() })
	return holder, agent
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func TestMessages(t *testing.T) {
	holder, agent := connected(t)
	r, w := pipe(t)
	sent := Message{Kind: Appeared, Namespace: "cni-1", Cookie: 1 << 60, Address: netip.MustParseAddrPort("127.0.0.1:64579")}
	if err := holder.Send(sent, r, w); err != nil {
		t.Fatal(err)
	}
	if err := holder.Send(Message{Kind: Complete}); err != nil {
		t.Fatal(err)
	}
	got, files, err := agent.Receive()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	if diff := cmp.Diff(sent, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if _, err := files[1].WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 5)
	if _, err := io.ReadFull(files[0], text); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	if got, files, err = agent.Receive(); err != nil || got.Kind != Complete || len(files) != 0 {
		t.Errorf("%+v, %v, %v", got, files, err)
	}
	_ = holder.Close()
	if _, _, err := agent.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestIncomplete: a namespace without both sockets is an error, and nothing stays open.
func TestIncomplete(t *testing.T) {
	holder, agent := connected(t)
	r, _ := pipe(t)
	if err := holder.Send(Message{Kind: Appeared}, r); err != nil {
		t.Fatal(err)
	}
	if _, _, err := agent.Receive(); err == nil {
		t.Error("no error")
	}
}

// TestDescriptors: a process that may not open more files gets an error.
func TestDescriptors(t *testing.T) {
	holder, agent := connected(t)
	r, w := pipe(t)
	if err := holder.Send(Message{Kind: Appeared}, r, w); err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, _, err := agent.Receive()
	if restoreErr := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); restoreErr != nil {
		t.Fatal(restoreErr)
	}
	if !errors.Is(err, ErrDescriptors) {
		t.Errorf("error %v", err)
	}
}

// TestPeer: a process of another user is turned away, at both ends.
func TestPeer(t *testing.T) {
	path, me := filepath.Join(t.TempDir(), "holder.sock"), uint32(os.Getuid())
	other := me + 1
	l, err := Listen(t.Context(), path, other)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	l.users = []uint32{other} // without root, which tests may be
	if _, err := dial(t.Context(), path, me); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, ErrPeer) {
		t.Errorf("the holder: %v", err)
	}
	if _, err := dial(t.Context(), path, other); !errors.Is(err, ErrPeer) {
		t.Errorf("the agent: %v", err)
	}
	if _, err := Dial(canceled(t), path); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// TestTwoHolders: a holder that ends leaves the socket of a newer one where agents find it.
func TestTwoHolders(t *testing.T) {
	path, me := filepath.Join(t.TempDir(), "holder.sock"), uint32(os.Getuid())
	older, err := Listen(t.Context(), path, me)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := Listen(t.Context(), path, me)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = newer.Close() }()
	if err := older.Close(); err != nil {
		t.Fatal(err)
	}
	agent, err := dial(t.Context(), path, me)
	if err != nil {
		t.Fatal(err)
	}
	_ = agent.Close()
}

// TestRequests: a request arrives as it was sent, and the end of an agent is noticed.
func TestRequests(t *testing.T) {
	holder, agent := connected(t)
	many := make([]string, MaxPods)
	for i := range many {
		many[i] = fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
	}
	for _, pods := range [][]string{nil, {"0123456789abcdef0123456789abcdef"}, many} {
		sent := Request{Kind: HostPods, Pods: pods}
		if err := agent.Ask(sent); err != nil {
			t.Fatal(err)
		}
		got, err := holder.ReceiveRequest()
		if diff := cmp.Diff(sent, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
	}
	_ = agent.Close()
	if _, err := holder.ReceiveRequest(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestWrongRequests: what is no request is an error, and descriptors that come with one are closed.
func TestWrongRequests(t *testing.T) {
	const uid = "00000000-0000-4000-8000-000000000000"
	for name, sent := range map[string]any{
		"kind":       Request{Kind: Complete, Pods: []string{uid}},
		"no kind":    map[string]any{},
		"a path":     Request{Kind: HostPods, Pods: []string{uid, "../" + uid}},
		"no UID":     Request{Kind: HostPods, Pods: []string{""}},
		"many":       Request{Kind: HostPods, Pods: slices.Repeat([]string{uid}, MaxPods+1)},
		"long":       Request{Kind: HostPods, Pods: []string{strings.Repeat("0", maxRequest)}},
		"no object":  []string{uid},
		"other type": map[string]any{"kind": HostPods, "pods": 1},
	} {
		t.Run(name, func(t *testing.T) {
			holder, agent := connected(t)
			r, w := pipe(t)
			line, err := json.Marshal(sent)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := agent.unix.WriteMsgUnix(line, unix.UnixRights(int(w.Fd())), nil); err != nil {
				t.Fatal(err)
			}
			if got, err := holder.ReceiveRequest(); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("received %+v, %v", got, err)
			}
			_ = w.Close()
			if n, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the descriptor is open: %d, %v", n, err)
			}
		})
	}
}

// TestWaitEnd: the end of an agent is noticed, and an agent that sends has ended.
func TestWaitEnd(t *testing.T) {
	holder, agent := connected(t)
	if err := agent.Send(Message{Kind: Complete}); err != nil {
		t.Fatal(err)
	}
	holder.WaitEnd()
	_ = agent.Close()
	holder.WaitEnd()
}
