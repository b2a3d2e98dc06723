// Keeping the control groups of pods in memory.

package podgroups

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Index holds the control groups below the kubelet's. It is safe for concurrent use.
type Index struct {
	root string // folder of the kubelet's group, such as /sys/fs/cgroup/kubepods

	mu     sync.Mutex
	pods   map[uint64]string // UID by the ID of a group
	ids    map[string]uint64 // by folder
	walked time.Time
	now    func() time.Time
}

// New returns an index of the groups below a folder, such as /sys/fs/cgroup/kubepods.slice.
func New(root string) *Index {
	return &Index{root: root, pods: map[uint64]string{}, ids: map[string]uint64{}, now: time.Now}
}

// walkInterval is the least time between two walks.
const walkInterval = time.Second

// Pod returns the UID of the pod that a control group belongs to, or false for none. For a group
// that the index does not know, such as one that a pod made below its own, it walks the tree, once
// a second at most.
func (x *Index) Pod(id uint64) (uid string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if uid, ok = x.pods[id]; ok {
		return uid, true
	}
	if now := x.now(); now.Sub(x.walked) >= walkInterval {
		x.walked = now
		x.walk(x.root)
		uid, ok = x.pods[id]
	}
	return uid, ok
}

// walk adds all folders below one. The caller must hold mu.
func (x *Index) walk(below string) {
	_ = filepath.WalkDir(below, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() { // what vanishes meanwhile is no loss
			x.add(path)
		}
		return nil
	})
}

// add stores a folder if it is a pod's. The caller must hold mu.
func (x *Index) add(path string) {
	uid := podOf(strings.TrimPrefix(path, x.root))
	if uid == "" {
		return
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return
	}
	x.pods[stat.Ino], x.ids[path] = uid, stat.Ino
}

// forget removes a folder, and those below it that the kernel removed before. The caller must hold
// mu.
func (x *Index) forget(path string) {
	for folder, id := range x.ids {
		if folder == path || strings.HasPrefix(folder, path+"/") {
			delete(x.ids, folder)
			delete(x.pods, id)
		}
	}
}

func (x *Index) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.pods)
	clear(x.ids)
}

// Run keeps the index up to date until ctx ends, by inotify. It returns an error if the folder
// cannot be watched.
func (x *Index) Run(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch control groups: %w", os.NewSyscallError("inotify_init1", err))
	}
	w := &watcher{index: x, fd: fd, events: os.NewFile(uintptr(fd), "inotify"), folders: map[int32]string{}, watches: map[string]int32{}}
	defer func() { _ = w.events.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = w.events.Close() })
	defer stop()
	if err := errors.Join(w.start(filepath.Dir(x.root)), w.watch(x.root)); err != nil {
		return fmt.Errorf("watch control groups: %w", err)
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := w.events.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch control groups: %w", err)
		}
		if err := w.handle(buffer[:n]); err != nil {
			return fmt.Errorf("watch control groups: %w", err)
		}
	}
}

// watcher watches the kubelet's folder, those of the quality classes in it, and the pods'. It also
// watches the folder above, to notice that the kubelet's is removed.
type watcher struct {
	index   *Index
	fd      int
	events  *os.File
	folders map[int32]string // by watch descriptor
	watches map[string]int32 // by folder
}

// start asks for the events of a folder.
func (w *watcher) start(folder string) error {
	wd, err := unix.InotifyAddWatch(w.fd, folder, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
	if err != nil {
		return &os.PathError{Op: "watch", Path: folder, Err: err}
	}
	w.folders[int32(wd)], w.watches[folder] = folder, int32(wd) //nolint:gosec // the kernel's type
	return nil
}

// stop asks for no more events of a folder that was removed. For control groups the kernel does not
// do so by itself.
func (w *watcher) stop(folder string) {
	if wd, ok := w.watches[folder]; ok {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) //nolint:gosec // the kernel's type
		delete(w.watches, folder)
		delete(w.folders, wd)
	}
}

// watch watches a folder, and adds what is in it already.
func (w *watcher) watch(folder string) error {
	if err := w.start(folder); err != nil {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := w.appeared(filepath.Join(folder, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// appeared adds a folder. Containers' folders are not watched: groups below them are found when
// they are asked for.
func (w *watcher) appeared(folder string) error {
	w.index.mu.Lock()
	w.index.add(folder)
	w.index.mu.Unlock()
	relative := strings.TrimPrefix(folder, w.index.root)
	if podOf(filepath.Dir(relative)) != "" {
		return nil // a container's
	}
	err := w.watch(folder)
	if errors.Is(err, fs.ErrNotExist) { // gone already
		return nil
	}
	return err
}

var errRootGone = errors.New("the kubelet's control group was removed")

// handle applies the events that the kernel wrote to a buffer (inotify(7)).
func (w *watcher) handle(events []byte) error {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events)) //nolint:gosec // the kernel's type
		mask := binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
		events = events[end:]
		if err := w.event(wd, mask, name); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) event(wd int32, mask uint32, name string) error {
	if mask&unix.IN_Q_OVERFLOW != 0 { // events were lost: look again
		w.index.clear()
		return w.watch(w.index.root)
	}
	above, known := w.folders[wd]
	folder := filepath.Join(above, name)
	switch {
	case !known || mask&unix.IN_ISDIR == 0:
	case folder != w.index.root && above == filepath.Dir(w.index.root): // beside the kubelet's
	case mask&unix.IN_DELETE == 0:
		return w.appeared(folder)
	case folder == w.index.root:
		return errRootGone
	default:
		w.index.mu.Lock()
		w.index.forget(folder)
		w.index.mu.Unlock()
		w.stop(folder)
	}
	return nil
}
