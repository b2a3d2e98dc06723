package hook

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/testnet"
)

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

// TestReplaced: if a file leads to another namespace and no event said so, the next listing
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
	r.eventually("files closed", func() bool { return openFiles(t) <= before })
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

// TestManyNamespaces: a listener in each of 4,000 namespaces, as far as the machine allows so many
// open files.
func TestManyNamespaces(t *testing.T) {
	r := newRig(t)
	many := min(4000, openFilesLimit(t)/4) // the namespace, the holder's two, and what is under way
	began := time.Now()
	want := map[uint64]uint16{}
	for i := range many {
		want[r.pod(fmt.Sprint("pod-", i))] = firstPort
	}
	made, before, h := time.Since(began), openFiles(t), r.holder()
	began = time.Now()
	h.run()
	agent := h.dial()
	received := 0
	for complete := false; !complete; received++ {
		m, files, err := agent.conn.Receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			_ = f.Close()
		}
		complete = m.Kind == protocol.Complete
	}
	r.wantPublished("all", want)
	t.Logf("%d namespaces made in %v; all published after %v, with %d descriptors", many, made, time.Since(began), openFiles(t)-before)
	if received != many+1 {
		t.Errorf("%d messages", received)
	}
}

// openFilesLimit raises the limit of open files as far as is allowed, for the test, and returns it.
func openFilesLimit(t *testing.T) int {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: old.Max, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
	return int(min(old.Max, 1<<20))
}
