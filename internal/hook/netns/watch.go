// Noticing namespaces that come and go.

package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Watch watches a folder in which a container runtime keeps pods' network namespaces (containerd
// and CRI-O: /run/netns). A runtime creates the file before it mounts the namespace on it, so Open
// may fail at first.
type Watch struct {
	Folder string
	// Appeared is called for each file, now and whenever one is added. It is called again for files
	// that are still there whenever the folder is listed: one may have been replaced unnoticed.
	Appeared func(path string)
	// Vanished is called for each file that is removed.
	Vanished func(path string)
	// Listed is called after each listing of the folder. A folder that does not exist is empty.
	Listed func()
	// Failed is called when the folder cannot be watched or listed. Run goes on.
	Failed func(error)

	present map[string]bool // by name
	events  func(folder string) (*fsnotify.Watcher, error)
}

// The intervals between listings of the folder.
const (
	// eventsInterval is for a folder with events. The kernel does not report everything, such as a
	// file system that is mounted on the folder.
	eventsInterval = time.Minute
	// pollInterval is for a folder without events, because it does not exist yet or the limits of
	// inotify are used up. They are counted per user, so a pod that runs as the same user can use
	// them up. A listing of 250 files takes less than a millisecond.
	pollInterval = 200 * time.Millisecond
)

// Run watches until ctx ends. It ends earlier for no error: it lists the folder at intervals until
// it can be watched.
func (w *Watch) Run(ctx context.Context) {
	w.present = map[string]bool{}
	if w.events == nil {
		w.events = events
	}
	for ctx.Err() == nil {
		watcher, err := w.events(w.Folder)
		if err != nil {
			w.Failed(err)
			w.list()
			sleep(ctx, pollInterval)
			continue
		}
		err = w.follow(ctx, watcher)
		_ = watcher.Close()
		if err != nil {
			w.Failed(err)
			sleep(ctx, pollInterval)
		}
	}
}

// events starts to watch a folder.
func events(folder string) (*fsnotify.Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch network namespaces: %w", explain(err))
	}
	if err := watcher.Add(folder); err != nil {
		_ = watcher.Close()
		return nil, fmt.Errorf("watch network namespaces in %s: %w", folder, explain(err))
	}
	return watcher, nil
}

// explain adds a remedy to an error of inotify.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w (raise fs.inotify.max_user_watches)", err)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w (raise fs.inotify.max_user_instances or the limit of open files)", err)
	}
	return err
}

func sleep(ctx context.Context, interval time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(interval):
	}
}

var errFolderGone = errors.New("the folder was removed")

// follow lists the folder and applies its events until ctx ends or the folder is gone.
func (w *Watch) follow(ctx context.Context, watcher *fsnotify.Watcher) error {
	w.list()
	again := time.NewTicker(eventsInterval)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watcher.Events:
			if filepath.Clean(e.Name) == filepath.Clean(w.Folder) && e.Has(fsnotify.Remove|fsnotify.Rename) {
				return fmt.Errorf("watch network namespaces in %s: %w", w.Folder, errFolderGone)
			}
			w.apply(e)
		case err := <-watcher.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch network namespaces in %s: %w", w.Folder, err)
			}
			w.list() // events were lost
		case <-again.C:
			w.list()
			if len(watcher.WatchList()) == 0 { // unmounted
				return fmt.Errorf("watch network namespaces in %s: %w", w.Folder, errFolderGone)
			}
		}
	}
}

// apply handles one event.
func (w *Watch) apply(e fsnotify.Event) {
	name := filepath.Base(e.Name)
	switch {
	case e.Has(fsnotify.Remove | fsnotify.Rename):
		w.remove(name)
	case e.Has(fsnotify.Create):
		w.add(name)
	}
}

// list compares what is known with the folder.
func (w *Watch) list() {
	entries, err := os.ReadDir(w.Folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Failed(fmt.Errorf("list network namespaces: %w", err))
		return
	}
	gone := maps.Clone(w.present)
	for _, e := range entries {
		delete(gone, e.Name())
		w.add(e.Name())
	}
	for name := range gone {
		w.remove(name)
	}
	w.Listed()
}

func (w *Watch) add(name string) {
	w.present[name] = true
	w.Appeared(filepath.Join(w.Folder, name))
}

func (w *Watch) remove(name string) {
	if w.present[name] {
		delete(w.present, name)
		w.Vanished(filepath.Join(w.Folder, name))
	}
}
