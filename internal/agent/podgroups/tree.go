// The control groups of pods.

package podgroups

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/kubepods"
)

// folder is a control group that the kubelet or the container runtime made: the kubelet's own, a
// quality-of-service class's, a pod's or a container's. All but containers' are watched.
type folder struct {
	path      string
	id        uint64
	uid       string // the pod's; a container has its pod's
	container bool
	below     map[string]*folder // by name

	watched bool
	watch   int32
	stale   bool      // events may have been lost, so it is to be read again
	read    time.Time // when it was last read, with what is below containers if it is a pod's
	due     time.Time // when it may be read again

	// made are the IDs of groups below containers that were asked for, the latest last. Others are
	// not stored: a pod may make as many as it likes.
	made []uint64
}

// The bounds of one pod. What is beyond them belongs to no pod.
const (
	maxContainers = 256 // containers, of init as well, that are there at a time
	maxMade       = 64  // groups below containers that are stored
	maxBelow      = 512 // groups below containers that are looked at
	maxDepth      = 16  // levels below a container
)

var errRootGone = errors.New("the kubelet's control group was removed")

// appeared adds a folder, given the one that it is in and its name, and what is in it. It replaces
// another of the same name.
func (k *keeper) appeared(in *folder, name string) {
	f, ok := k.newFolder(in, name)
	if before := in.below[name]; before != nil {
		if ok && before.id == f.id {
			return
		}
		k.vanished(in, name)
	}
	if !ok || f.container && len(in.below) >= maxContainers {
		return
	}
	in.below[name] = f
	k.store(f)
	if !f.container {
		k.folders[f.path] = f
		k.watch(f)
		err := k.scan(f)
		f.stale = err != nil && !gone(err) // if gone, there will be an event, or the one above is read again
	}
}

// store stores the group of a pod or container, and reports a pod's.
func (k *keeper) store(f *folder) {
	if f.uid == "" {
		return
	}
	k.index.put(f.id, f.uid)
	if !f.container && k.index.Appeared != nil {
		k.index.Appeared(f.uid)
	}
}

// newFolder returns a folder that the index keeps, or false if it is of another kind or not there.
func (k *keeper) newFolder(in *folder, name string) (f *folder, ok bool) {
	f = &folder{
		path: filepath.Join(in.path, name), uid: in.uid, container: in.uid != "", below: map[string]*folder{},
	}
	if !f.container {
		f.uid, _ = kubepods.UID(name)
		if f.uid == "" && in != k.root {
			return nil, false // neither a class nor a pod
		}
	}
	stat, err := statFolder(f.path)
	f.id = stat.Ino
	return f, err == nil
}

// vanished forgets a folder and what is below.
func (k *keeper) vanished(in *folder, name string) {
	f := in.below[name]
	if f == nil {
		return
	}
	delete(in.below, name)
	for name := range f.below {
		k.vanished(f, name)
	}
	k.index.drop(append(f.made, f.id)...)
	if !f.container {
		k.unwatch(f)
		delete(k.folders, f.path)
	}
}

// scan compares what is known to be in a folder with what is there.
func (k *keeper) scan(f *folder) error {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return err
	}
	present := map[string]bool{}
	for _, e := range entries {
		present[e.Name()] = e.IsDir()
	}
	for name := range f.below {
		if !present[name] {
			k.vanished(f, name)
		}
	}
	for name, isFolder := range present {
		if isFolder {
			k.appeared(f, name)
		}
	}
	return nil
}

// madeBy looks at the groups below a pod's containers, the nearest first, and stores those that are
// asked for. It returns how many it looked at.
func (k *keeper) madeBy(pod *folder) (looked int, err error) {
	level := []string{}
	for _, c := range pod.below {
		level = append(level, c.path)
	}
	for depth := 0; depth < maxDepth && len(level) > 0; depth++ {
		var deeper []string
		for _, path := range level {
			groups, err := foldersIn(path, maxBelow-looked)
			if err != nil && !gone(err) {
				return looked, err
			}
			for group, id := range groups {
				if k.index.putIfAsked(id, pod.uid) {
					k.keepMade(pod, id)
				}
				deeper = append(deeper, group)
			}
			looked += len(groups)
		}
		level = deeper
	}
	return looked, nil
}

// keepMade records that a group below a container is stored, and forgets the oldest beyond the
// bound.
func (k *keeper) keepMade(pod *folder, id uint64) {
	pod.made = append(pod.made, id)
	if beyond := len(pod.made) - maxMade; beyond > 0 {
		k.index.drop(pod.made[:beyond]...)
		pod.made = pod.made[beyond:]
	}
}

// foldersIn returns the paths of folders in a folder, up to a number, and their IDs.
func foldersIn(path string, most int) (found map[string]uint64, err error) {
	stat, err := statFolder(path)
	if err != nil || stat.Nlink == 2 || most <= 0 { // its own name and its dot: no folder is in it
		return nil, err
	}
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	found = map[string]uint64{}
	for len(found) < most && err == nil {
		var entries []fs.DirEntry
		entries, err = d.ReadDir(most - len(found))
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			below := filepath.Join(path, e.Name())
			if stat, err := statFolder(below); err == nil {
				found[below] = stat.Ino
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return found, err
}

// statFolder returns what is known of a folder. A symbolic link is none.
func statFolder(path string) (stat unix.Stat_t, err error) {
	if err := unix.Lstat(path, &stat); err != nil {
		return stat, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return stat, &fs.PathError{Op: "lstat", Path: path, Err: unix.ENOTDIR}
	}
	return stat, nil
}
