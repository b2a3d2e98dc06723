package podgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

const (
	first  = "00000000-0000-4000-8000-000000000001"
	second = "00000000-0000-4000-8000-000000000002"
	third  = "00000000-0000-4000-8000-000000000003"
)

// node is the folders of a kubelet, which look like control groups, and an index of them.
type node struct {
	t       *testing.T
	root    string
	index   *Index
	watcher *fakeWatcher
	stop    func() error
}

// newNode returns a node with groups whose index runs until the test ends. It sees no event that
// the test does not send.
func newNode(t *testing.T, groups ...string) *node {
	t.Helper()
	n := &node{t: t, root: filepath.Join(t.TempDir(), "kubepods"), watcher: &fakeWatcher{limit: 1000}}
	n.make("")
	for _, g := range groups {
		n.make(g)
	}
	n.index = New(n.root)
	n.index.inotify = n.watcher.open
	return n
}

// run runs the index until the test ends, and waits until it has begun.
func (n *node) run() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.index.Run(ctx) }()
	n.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	n.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			n.t.Error(err)
		}
	})
	synctest.Wait()
}

// make makes a group, given its path below the kubelet's, and returns its ID.
func (n *node) make(path string) uint64 {
	n.t.Helper()
	folder := filepath.Join(n.root, path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return n.id(path)
}

func (n *node) id(path string) uint64 {
	n.t.Helper()
	stat, err := statFolder(filepath.Join(n.root, path))
	if err != nil {
		n.t.Fatal(err)
	}
	return stat.Ino
}

func (n *node) remove(path string) {
	n.t.Helper()
	if err := os.RemoveAll(filepath.Join(n.root, path)); err != nil {
		n.t.Fatal(err)
	}
}

// asks looks a group up and checks the answer and how long it took.
func (n *node) asks(group uint64, want string, took time.Duration) {
	n.t.Helper()
	start := time.Now()
	uid, err := n.index.Lookup(n.t.Context(), group)
	if uid != want || (err == nil) != (want != "") || want == "" && !errors.Is(err, ErrNoPod) {
		n.t.Errorf("group %d is of %q, %v, want %q", group, uid, err, want)
	}
	if got := time.Since(start); got != took {
		n.t.Errorf("group %d took %v, want %v", group, got, took)
	}
}

// known returns the pod of a group that is known.
func (n *node) known(group uint64) string {
	n.index.mu.Lock()
	defer n.index.mu.Unlock()
	return n.index.pods[group]
}

func (n *node) stored() int {
	n.index.mu.Lock()
	defer n.index.mu.Unlock()
	return len(n.index.pods)
}

// secondPasses waits until all folders that are not watched have been read again, and those in
// them.
func (n *node) secondPasses() {
	<-time.After(unwatchedPause + minPause)
	synctest.Wait()
}

// fakeWatcher passes on the events that a test sends.
type fakeWatcher struct {
	mu      sync.Mutex
	limit   int // how many watches there may be; fewer than 0: no watcher
	closed  bool
	blocked chan struct{}
	folders map[int32]string
	latest  int32
	queue   chan []event
}

func (w *fakeWatcher) open() (watcher, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit < 0 {
		return nil, unix.EMFILE
	}
	w.folders, w.queue = map[int32]string{}, make(chan []event)
	return w, nil
}

func (w *fakeWatcher) add(folder string) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blocked != nil {
		<-w.blocked
	}
	if len(w.folders) >= w.limit {
		return 0, unix.ENOSPC
	}
	w.latest++
	w.folders[w.latest] = folder
	return w.latest, nil
}

func (w *fakeWatcher) remove(watch int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		panic("the number of the file may be another's")
	}
	delete(w.folders, watch)
}

func (w *fakeWatcher) events() <-chan []event { return w.queue }

func (w *fakeWatcher) close() { w.closed = true }

func (w *fakeWatcher) set(limit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
}

// watched returns how many folders are watched.
func (w *fakeWatcher) watched() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.folders)
}

// send sends an event of a folder, given the path of what it is about.
func (w *fakeWatcher) send(t *testing.T, mask uint32, path string) {
	t.Helper()
	w.mu.Lock()
	var found int32
	for watch, folder := range w.folders {
		if folder == filepath.Dir(path) {
			found = watch
		}
	}
	w.mu.Unlock()
	if found == 0 {
		t.Fatalf("%s is not watched", filepath.Dir(path))
	}
	w.queue <- []event{{watch: found, mask: mask | unix.IN_ISDIR, name: filepath.Base(path)}}
	synctest.Wait()
}

func (n *node) appears(path string) {
	n.watcher.send(n.t, unix.IN_CREATE, filepath.Join(n.root, path))
}

func (n *node) vanishes(path string) {
	n.watcher.send(n.t, unix.IN_DELETE, filepath.Join(n.root, path))
}

// TestKnown: groups of the kubelet and the runtime are known, with either driver, and no others.
func TestKnown(t *testing.T) {
	const underlined = "00000000_0000_4000_8000_000000000003"
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c", "besteffort/pod"+second+"/c", "burstable", "pod"+first+"/c/made/pod"+second,
			"kubepods-burstable.slice/kubepods-burstable-pod"+underlined+".slice/cri-containerd-a.scope", "other/deep/pod"+second)
		n.run()
		for path, want := range map[string]string{
			"pod" + first: first, "pod" + first + "/c": first, "besteffort/pod" + second + "/c": second,
			"kubepods-burstable.slice/kubepods-burstable-pod" + underlined + ".slice/cri-containerd-a.scope": third,
			"": "", "burstable": "", "other": "", "other/deep": "", "other/deep/pod" + second: "",
			"pod" + first + "/c/made": "", "pod" + first + "/c/made/pod" + second: "", // not before a question
		} {
			if got := n.known(n.id(path)); got != want {
				t.Errorf("%q: %q, want %q", path, got, want)
			}
		}
		n.asks(n.id("other/deep/pod"+second), "", grace)
		n.asks(n.id("pod"+first+"/c"), first, 0)
	})
}

// TestEvents: what appears is known at once, and what vanishes is forgotten with all below.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "burstable")
		n.run()
		c := n.make("burstable/pod" + first + "/c")
		n.appears("burstable/pod" + first)
		if got := n.known(c); got != first {
			t.Errorf("a new pod's container: %q", got)
		}
		d := n.make("burstable/pod" + first + "/d")
		n.appears("burstable/pod" + first + "/d")
		if got := n.known(d); got != first {
			t.Errorf("a new container: %q", got)
		}
		made := n.make("burstable/pod" + first + "/d/made")
		n.asks(made, first, grace)
		n.vanishes("burstable/pod" + first + "/c") // late: another has been made
		if n.known(c) != first {
			t.Error("the group that has taken a name was forgotten")
		}
		n.remove("burstable/pod" + first)
		n.vanishes("burstable/pod" + first)
		if got, watched := n.stored(), n.watcher.watched(); got != 0 || watched != 3 {
			t.Errorf("without pods, %d groups are stored, and %d folders watched", got, watched)
		}
	})
}

// TestAppeared: each pod whose group is there or is made is reported, once, and no group that a pod
// made.
func TestAppeared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "burstable", "pod"+first+"/c/made/pod"+third)
		var got []string
		n.index.Appeared = func(uid string) { got = append(got, uid) }
		n.run()
		n.make("burstable/pod" + second + "/c")
		n.appears("burstable/pod" + second)
		n.appears("burstable/pod" + second)
		n.make("burstable/pod" + second + "/pod" + third)
		n.appears("burstable/pod" + second + "/pod" + third)
		n.asks(n.id("pod"+first+"/c/made/pod"+third), first, grace)
		if want := []string{first, second}; !slices.Equal(got, want) {
			t.Errorf("reported %q, want %q", got, want)
		}
		n.remove("burstable/pod" + second)
		n.vanishes("burstable/pod" + second)
		n.make("burstable/pod" + second)
		n.appears("burstable/pod" + second)
		if len(got) != 3 || got[2] != second {
			t.Errorf("reported %q; one was made again", got)
		}
	})
}

// TestZero: no group has ID 0, so nothing is looked at and no caller waits.
func TestZero(t *testing.T) {
	if _, err := New("/nowhere").Lookup(t.Context(), 0); !errors.Is(err, ErrNoPod) { // it does not run
		t.Errorf("ID 0: %v", err)
	}
}

// TestWaits: a caller whose group is not known yet waits until it is.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first)
		c := n.make("pod" + first + "/c")
		var caller sync.WaitGroup
		caller.Go(func() { n.asks(c, first, 100*time.Millisecond) })
		<-time.After(100 * time.Millisecond)
		n.run() // reads all
		caller.Wait()

		d := n.make("pod" + first + "/d")
		caller.Go(func() { n.asks(d, first, grace/2) })
		<-time.After(grace / 2)
		n.appears("pod" + first + "/d")
		caller.Wait()

		e := n.make("pod" + first + "/e")
		n.asks(e, first, grace) // its event is late
	})
}

// TestGivesUp: a caller waits as long as it likes, does not get "no pod", and leaves
// nothing.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := New("/nowhere") // does not run
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := x.Lookup(ctx, 7)
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNoPod) {
			t.Error(err)
		}
		start := time.Now()
		if _, ok := x.Pod(7); ok || time.Since(start) != defaultWait {
			t.Errorf("Pod: %t after %v", ok, time.Since(start))
		}
		if len(x.questions) != 0 {
			t.Errorf("%d questions are left", len(x.questions))
		}
	})
}

// TestNoPod: that a group is no pod's is remembered for a short time.
func TestNoPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c")
		stranger := n.make("../system")
		n.run()
		n.asks(stranger, "", grace)
		n.asks(stranger, "", 0)
		<-time.After(noneFor)
		n.asks(stranger, "", grace)
		n.asks(stranger, "", 0)
		n.index.mu.Lock()
		n.index.store(stranger, first)
		n.index.mu.Unlock()
		n.asks(stranger, first, 0) // what appears counts
		n.index.drop(stranger)
		n.asks(stranger, "", minPause) // and is looked for again
		for group := range uint64(2 * maxNone) {
			go func() { _, _ = n.index.Lookup(t.Context(), 1<<40+group) }()
		}
		<-time.After(2 * minPause)
		if got := len(n.index.none); got != maxNone {
			t.Errorf("%d groups are remembered to be no pod's, want %d", got, maxNone)
		}
	})
}

// TestOneReader: many callers cause one read, and more have to wait for the next.
func TestOneReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c", "burstable/pod"+second+"/c")
		n.run()
		made, other := n.make("pod"+first+"/c/made"), n.make("burstable/pod"+second+"/c/made")
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() { n.asks(made, first, grace) })
			callers.Go(func() { n.asks(other, second, grace) })
			callers.Go(func() { n.asks(1<<40, "", grace) })
		}
		callers.Wait()
		n.asks(1<<40+1, "", minPause)
		n.asks(1<<40+2, "", minPause)
	})
}

// TestNotBlocked: callers whose group is known do not wait for those whose group is not.
func TestNotBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c")
		n.watcher.limit = 0
		n.run()
		blocked := make(chan struct{})
		n.watcher.mu.Lock()
		n.watcher.blocked = blocked
		n.watcher.mu.Unlock()
		go func() { _, _ = n.index.Lookup(t.Context(), 1<<40) }()
		<-time.After(minPause) // in the middle of reading
		n.asks(n.id("pod"+first+"/c"), first, 0)
		close(blocked)
	})
}

// TestBudget: a pod that makes many groups makes its own callers wait, not others'.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c", "pod"+second+"/c")
		for i := range maxBelow + 100 {
			n.make("pod" + first + "/c/made" + strconv.Itoa(i))
		}
		n.run()
		n.asks(1<<40, "", grace)
		inFirst, inSecond := n.make("pod"+first+"/d/made"), n.make("pod"+second+"/c/made")
		n.remove("pod" + first + "/c")
		var callers sync.WaitGroup
		callers.Go(func() { n.asks(inSecond, second, minPause) })
		callers.Go(func() { n.asks(inFirst, first, maxPause) })
		callers.Wait()
	})
}

// TestBounds: of the groups that a pod makes, a bounded number is looked at and stored, and none
// after the pod has gone.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deepest := "pod" + first + "/c" + strings.Repeat("/d", maxDepth)
		n := newNode(t, "pod"+first+"/c", deepest+"/d")
		n.run()
		n.asks(n.id(deepest), first, grace)
		n.asks(n.id(deepest+"/d"), "", minPause)
		if got := n.stored(); got != 3 { // pod, container, the one that was asked for
			t.Errorf("%d groups are stored, want 3", got)
		}

		var callers sync.WaitGroup
		for i := range 2 * maxMade {
			group := n.make(fmt.Sprintf("pod%s/c/made%d", first, i))
			callers.Go(func() { n.asks(group, first, minPause) })
		}
		callers.Wait()
		if got, want := n.stored(), 2+maxMade; got != want {
			t.Errorf("%d groups are stored, want %d", got, want)
		}
		n.remove("pod" + first)
		n.vanishes("pod" + first)
		if got := n.stored(); got != 0 {
			t.Errorf("%d groups are stored after the pod has gone", got)
		}
	})
}

// TestMany: the bounds of one pod.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for i := range 2 * maxContainers {
			n.make(fmt.Sprintf("pod%s/c%d", first, i))
			for j := range 4 {
				n.make(fmt.Sprintf("pod%s/c%d/%d", first, i, j))
			}
		}
		n.run()
		if got, want := n.stored(), 1+maxContainers; got != want {
			t.Errorf("%d groups are stored, want %d", got, want)
		}
		k := &keeper{index: n.index}
		pod := &folder{uid: first, below: map[string]*folder{}}
		for i := range maxContainers {
			pod.below[strconv.Itoa(i)] = &folder{path: filepath.Join(n.root, fmt.Sprintf("pod%s/c%d", first, i))}
		}
		if got, err := k.madeBy(pod); got != maxBelow || err != nil {
			t.Errorf("%d groups were looked at, want %d, %v", got, maxBelow, err)
		}
	})
}

// TestLimits: folders that cannot be watched are read on a timer, and watched when they can be.
func TestLimits(t *testing.T) {
	for name, limit := range map[string]int{"no watcher": -1, "no watch": 0, "the kubelet's alone": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, "burstable/pod"+first+"/c")
				n.watcher.limit = limit
				n.run()
				n.asks(n.id("burstable/pod"+first+"/c"), first, 0)
				n.asks(n.make("burstable/pod"+first+"/d"), first, minPause)
				n.secondPasses()
				e := n.make("burstable/pod" + second + "/e")
				n.secondPasses()
				if got := n.known(e); got != second {
					t.Errorf("after a second: %q", got)
				}
				n.remove("burstable/pod" + second)
				n.secondPasses()
				if got := n.known(e); got != "" {
					t.Errorf("of a pod that is gone: %q", got)
				}
				n.watcher.set(1000)
				n.secondPasses()
				if got := n.watcher.watched(); got != 4 { // the one above, too
					t.Errorf("%d folders are watched", got)
				}
				f := n.make("burstable/pod" + first + "/f")
				n.appears("burstable/pod" + first + "/f")
				if got := n.known(f); got != first {
					t.Errorf("watched again: %q", got)
				}
			})
		})
	}
}

// TestOverflow: after events were lost, all is right again.
func TestOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c", "burstable/pod"+second+"/c")
		n.run()
		c, d := n.id("pod"+first+"/c"), n.make("burstable/pod"+second+"/d")
		e := n.make("burstable/pod" + third + "/e")
		n.remove("pod" + first)
		n.watcher.queue <- []event{{watch: -1, mask: unix.IN_Q_OVERFLOW}}
		synctest.Wait()
		for group, want := range map[uint64]string{c: "", d: second, e: third} {
			if got := n.known(group); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	})
}

// TestDescriptors: without file descriptors nothing is certain, and afterward all is right again.
func TestDescriptors(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	limit := func(to uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: to, Max: before.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(before.Cur)
	for name, watches := range map[string]int{"watched": 1000, "not watched": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, "pod"+first+"/c")
				n.watcher.limit = watches
				n.run()
				made, late := n.make("pod"+first+"/c/made"), n.make("pod"+second+"/c")
				limit(0)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				for _, group := range []uint64{made, late} {
					if _, err := n.index.Lookup(ctx, group); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("without descriptors: %v", err)
					}
				}
				pod := &folder{below: map[string]*folder{"c": {path: filepath.Join(n.root, "pod"+first+"/c")}}}
				if _, err := (&keeper{index: n.index}).madeBy(pod); !errors.Is(err, unix.EMFILE) {
					t.Errorf("groups that a pod made, without descriptors: %v", err)
				}
				limit(before.Cur)
				<-time.After(minPause)
				for group, want := range map[uint64]string{made: first, late: second} {
					if uid, err := n.index.Lookup(t.Context(), group); uid != want || err != nil {
						t.Errorf("again: %q, %v, want %q", uid, err, want)
					}
				}
			})
		})
	}
}

// TestReplaced: a folder that replaces another of the same name is another group.
func TestReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "pod"+first+"/c")
		n.run()
		before := n.id("pod" + first + "/c")
		if err := os.Rename(filepath.Join(n.root, "pod"+first), filepath.Join(n.root, "../kept")); err != nil {
			t.Fatal(err)
		}
		after := n.make("pod" + first + "/c")
		n.appears("pod" + first)
		if n.known(before) != "" || n.known(after) != first {
			t.Errorf("before: %q, after: %q", n.known(before), n.known(after))
		}
	})
}

// TestRootGone: without the kubelet's group there is an error, however it is noticed.
func TestRootGone(t *testing.T) {
	for name, limit := range map[string]int{"event": 1000, "read": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, "pod"+first)
				n.watcher.limit = limit
				ended := make(chan error, 1)
				go func() { ended <- n.index.Run(t.Context()) }()
				synctest.Wait()
				n.remove("")
				if limit > 0 {
					n.watcher.queue <- []event{{watch: 1, mask: unix.IN_DELETE | unix.IN_ISDIR, name: "kubepods"}}
				}
				if err := <-ended; !errors.Is(err, errRootGone) {
					t.Error(err)
				}
				if err := n.index.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("never there: %v", err)
				}
			})
		})
	}
}
