package netns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// calls records what a Watch calls, in order.
type calls chan string

func (c calls) watch(folder string) *Watch {
	return &Watch{
		Folder:   folder,
		Appeared: func(path string) { c <- "+" + filepath.Base(path) },
		Vanished: func(path string) { c <- "-" + filepath.Base(path) },
		Listed:   func() { c <- "listed" },
		Failed:   func(err error) { c <- "failed: " + err.Error() },
	}
}

// want waits for a call. Listings and failures in between are left out unless they are wanted:
// without events there is one at each interval.
func (c calls) want(t *testing.T, want ...string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for _, w := range want {
		for got := ""; got != w; {
			select {
			case got = <-c:
			case <-late:
				t.Fatalf("no %s", w)
			}
			if got != w && (got[0] == '+' || got[0] == '-') {
				t.Fatalf("%s, want %s", got, w)
			}
		}
	}
}

// start runs a Watch until the test ends.
func start(t *testing.T, w *Watch) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

func create(t *testing.T, folder, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, folder, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(folder, name)); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, folder, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(folder, from), filepath.Join(folder, to)); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	folder, c := t.TempDir(), make(calls, 100)
	create(t, folder, "a")
	start(t, c.watch(folder))
	c.want(t, "+a", "listed")
	create(t, folder, "b")
	c.want(t, "+b")
	remove(t, folder, "a")
	c.want(t, "-a")
	rename(t, folder, "b", "c")
	c.want(t, "-b", "+c")
	create(t, folder, "d")
	c.want(t, "+d")
	rename(t, folder, "d", "c")
	c.want(t, "-d", "+c") // the file may be another one
}

// TestFolder: a folder that is missing is empty, and watched once it is there. So is one that is
// removed and made again.
func TestFolder(t *testing.T) {
	above, c := t.TempDir(), make(calls, 100)
	folder := filepath.Join(above, "netns")
	start(t, c.watch(folder))
	c.want(t, "listed")
	for range 2 {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		create(t, folder, "a")
		c.want(t, "+a")
		remove(t, above, "netns")
		c.want(t, "-a")
	}
}

// TestLimits: while there is no inotify, namespaces are found by listing the folder.
func TestLimits(t *testing.T) {
	for _, limit := range []error{unix.ENOSPC, unix.EMFILE} {
		t.Run(limit.Error(), func(t *testing.T) {
			folder, c, free := t.TempDir(), make(calls, 100), make(chan struct{})
			w := c.watch(folder)
			w.events = func(folder string) (*fsnotify.Watcher, error) {
				select {
				case <-free:
					return events(folder)
				default:
					return nil, explain(limit)
				}
			}
			start(t, w)
			c.want(t, "failed: "+explain(limit).Error(), "listed")
			create(t, folder, "a")
			c.want(t, "+a")
			remove(t, folder, "a")
			c.want(t, "-a")
			close(free)
			create(t, folder, "b")
			c.want(t, "+b")
		})
	}
}

// TestOverflow: if events were lost, the folder is listed again, and each file in it reported: it
// may be another one.
func TestOverflow(t *testing.T) {
	folder, c := t.TempDir(), make(calls, 100)
	create(t, folder, "a")
	create(t, folder, "b")
	w, errs := c.watch(folder), make(chan error)
	w.events = func(string) (*fsnotify.Watcher, error) { // one that has no events
		watcher, err := fsnotify.NewWatcher()
		if err == nil {
			watcher.Errors = errs
		}
		return watcher, err
	}
	start(t, w)
	c.want(t, "+a", "+b", "listed")
	remove(t, folder, "a")
	errs <- fsnotify.ErrEventOverflow
	c.want(t, "+b", "-a", "listed")
	errs <- errors.New("another error") // the watch starts again
	c.want(t, "failed: watch network namespaces in "+folder+": another error", "+b", "listed")
}
