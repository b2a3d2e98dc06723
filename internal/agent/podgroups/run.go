// Keeping the index up to date.

package podgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

const (
	// grace is how long a question waits for an event of its group before folders are read: that of a
	// container that has just started is on its way, and takes 0.2 ms.
	grace = 5 * time.Millisecond
	// A folder is read to answer questions once in minPause, and rests for pausePerGroup for each
	// group that was looked at. So a pod that makes many groups makes its own questions wait, not
	// others'. To read 250 pods takes 25 ms.
	minPause      = 250 * time.Millisecond
	pausePerGroup = time.Millisecond
	maxPause      = maxBelow * pausePerGroup
	// unwatchedPause is how often a folder is read that cannot be watched.
	unwatchedPause = time.Second
)

// keeper owns the folders. Its methods run in one goroutine, and the index is locked for single
// answers only, so that callers whose group is known never wait for it.
type keeper struct {
	index   *Index
	log     logr.Logger
	root    *folder
	folders map[string]*folder // all but containers', by path
	watcher watcher            // nil if there can be none now
	watches map[int32]*folder
	above   int32 // watch of the folder above, which reports that the kubelet's is removed
	limited bool  // a folder is not watched
}

// Run keeps the index up to date until ctx ends. It returns an error if the kubelet's control group
// cannot be read, or is removed.
//
// The kernel bounds watches by user (fs.inotify in sysctl), and pods may run as the same user. A
// folder that cannot be watched is read once a second, until it can.
func (x *Index) Run(ctx context.Context) error {
	k := &keeper{
		index: x, log: logr.FromContextOrDiscard(ctx).WithName("podgroups"),
		folders: map[string]*folder{}, watches: map[int32]*folder{},
	}
	defer k.end()
	if err := k.start(); err != nil {
		return fmt.Errorf("watch control groups: %w", err)
	}
	for {
		if err := k.step(ctx.Done()); err != nil {
			return fmt.Errorf("watch control groups: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// start reads all folders and watches them.
func (k *keeper) start() error {
	stat, err := statFolder(k.index.root)
	if err != nil {
		return err
	}
	k.root = &folder{path: k.index.root, id: stat.Ino, below: map[string]*folder{}}
	k.folders[k.root.path] = k.root
	k.watch(k.root)
	return k.scan(k.root)
}

// end forgets everything.
func (k *keeper) end() {
	if k.root != nil {
		for name := range k.root.below {
			k.vanished(k.root, name)
		}
	}
	if k.watcher != nil {
		k.watcher.close()
	}
}

// step waits for what is to be done next, and does it.
func (k *keeper) step(done <-chan struct{}) error {
	var events <-chan []event
	if k.watcher != nil {
		events = k.watcher.events()
	}
	next, at := k.next()
	var timer <-chan time.Time
	if next != nil {
		timer = time.After(time.Until(at))
	}
	select {
	case <-done:
		return nil
	case some, ok := <-events:
		if !ok {
			return errors.New("inotify failed")
		}
		return k.handle(some)
	case <-k.index.asking:
		return nil // next depends on it
	case <-timer:
		return k.visit(next)
	}
}

// next returns the folder to be read next, and when, or nil if there is none.
func (k *keeper) next() (next *folder, at time.Time) {
	first, last, asked := k.index.period()
	for _, f := range k.folders {
		wanted := f.due
		switch {
		case f.stale:
		case asked && !f.read.After(last):
			wanted = later(f.due, first.Add(grace))
		case !f.watched:
			wanted = later(f.due, f.read.Add(unwatchedPause))
		default:
			continue
		}
		if next == nil || wanted.Before(at) {
			next, at = f, wanted
		}
	}
	return next, at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// visit reads a folder, and answers the questions that came before any folder was last read. If it
// cannot be read, such as for want of file descriptors, it is tried again.
func (k *keeper) visit(f *folder) error {
	start, looked := time.Now(), 0
	if !f.watched {
		k.watch(f)
	}
	err := k.scan(f)
	if err == nil && f.uid != "" {
		looked, err = k.madeBy(f)
	}
	f.due = time.Now().Add(max(minPause, time.Duration(looked)*pausePerGroup))
	f.stale = err != nil && !gone(err)
	if f.stale {
		return nil
	}
	if f == k.root && err != nil {
		return errRootGone
	}
	f.read = start
	oldest := f.read
	for _, f := range k.folders {
		if f.read.Before(oldest) {
			oldest = f.read
		}
	}
	k.index.exclude(oldest)
	return nil
}

// gone reports whether a folder could not be read because it was removed.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// watch asks for the events of a folder. It must be read afterward. If it cannot be watched, it is
// read on a timer.
func (k *keeper) watch(f *folder) {
	err := k.open()
	if err == nil && f == k.root {
		k.above, err = k.watcher.add(filepath.Dir(f.path))
	}
	if err == nil {
		f.watch, err = k.watcher.add(f.path)
	}
	f.watched = err == nil
	if f.watched {
		k.watches[f.watch] = f
	}
	k.report(err)
}

// open makes a watcher if there is none.
func (k *keeper) open() (err error) {
	if k.watcher == nil {
		k.watcher, err = k.index.inotify()
	}
	return err
}

// report logs when folders cannot be watched, given the error of one, and when all can again.
func (k *keeper) report(err error) {
	switch {
	case err != nil && gone(err): // already
	case err != nil && !k.limited:
		k.limited = true
		k.log.Info("cannot watch control groups, reading them every second; raise fs.inotify.max_user_watches and "+
			"fs.inotify.max_user_instances on the node", "reason", err.Error())
	case err == nil && k.limited && k.allWatched():
		k.limited = false
		k.log.Info("watching control groups again")
	}
}

func (k *keeper) allWatched() bool {
	for _, f := range k.folders {
		if !f.watched {
			return false
		}
	}
	return true
}

// unwatch ends the watch of a folder that was removed. For control groups the kernel does not do so
// by itself.
func (k *keeper) unwatch(f *folder) {
	if f.watched {
		k.watcher.remove(f.watch)
		delete(k.watches, f.watch)
		f.watched = false
	}
}

// handle applies events.
func (k *keeper) handle(events []event) error {
	for _, e := range events {
		if err := k.event(e); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) event(e event) error {
	in := k.watches[e.watch]
	switch {
	case e.mask&unix.IN_Q_OVERFLOW != 0:
		for _, f := range k.folders {
			f.stale = true
		}
	case k.root.watched && e.watch == k.above:
		if e.mask&unix.IN_DELETE != 0 && e.name == filepath.Base(k.root.path) {
			return errRootGone
		}
	case in == nil:
	case e.mask&unix.IN_IGNORED != 0: // the file system is gone, or the folder: then the event is on its way
		delete(k.watches, e.watch)
		in.watched = false
	case e.mask&unix.IN_ISDIR != 0:
		k.changed(in, e)
	}
	return nil
}

// changed handles the event of a folder that is in another.
func (k *keeper) changed(in *folder, e event) {
	if e.mask&unix.IN_CREATE != 0 {
		k.appeared(in, e.name)
	} else if e.mask&unix.IN_DELETE != 0 {
		k.disappeared(in, e.name)
	}
}

// disappeared handles the event that a folder was removed. One that has been made since stays.
func (k *keeper) disappeared(in *folder, name string) {
	f := in.below[name]
	if f == nil {
		return
	}
	if stat, err := statFolder(f.path); err == nil && stat.Ino == f.id {
		return
	}
	k.vanished(in, name)
}
