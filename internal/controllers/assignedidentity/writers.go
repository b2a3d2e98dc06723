// How many objects of one node group are written at a time.

package assignedidentity

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/compute"
)

// writers keeps the pods of one node group from taking all workers: those beyond
// the limit leave their worker to others and are woken in turn.
type writers struct {
	most int
	wake func(...types.NamespacedName)

	mu     sync.Mutex
	groups map[compute.Group]*desk
	// called are pods that were woken and have not come yet, and where from. One
	// that has nothing to write after all passes its turn on: else those behind
	// it would wait for somebody who never leaves.
	called map[types.NamespacedName]compute.Group
}

// newWriters lets most pods of a group write at a time.
func newWriters(most int, wake func(...types.NamespacedName)) writers {
	return writers{
		most: max(most, 1), wake: wake, groups: map[compute.Group]*desk{}, called: map[types.NamespacedName]compute.Group{},
	}
}

// desk is where the pods of one group queue up.
type desk struct {
	busy   int
	queue  []types.NamespacedName
	queued map[types.NamespacedName]bool
}

// enter takes a place, or queues the pod up and returns false.
func (w *writers) enter(group compute.Group, pod types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.groups[group]
	if d == nil {
		d = &desk{queued: map[types.NamespacedName]bool{}}
		w.groups[group] = d
	}
	if d.busy < w.most {
		d.busy++
		delete(d.queued, pod)
		delete(w.called, pod)
		return true
	}
	if !d.queued[pod] {
		d.queued[pod] = true
		d.queue = append(d.queue, pod)
	}
	return false
}

// leave gives the place back and wakes the next pod.
func (w *writers) leave(group compute.Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groups[group].busy--
	w.next(group)
}

// seen says that a pod was looked at, whether it wrote or not. One that was woken
// and did not enter leaves its turn to the next.
func (w *writers) seen(pod types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if group, called := w.called[pod]; called {
		delete(w.called, pod)
		w.next(group)
	}
}

// next wakes the next pod that still waits, if there is a place. mu is held.
func (w *writers) next(group compute.Group) {
	d := w.groups[group]
	if d == nil {
		return
	}
	for d.busy < w.most && len(d.queue) > 0 {
		pod := d.queue[0]
		d.queue = d.queue[1:]
		if !d.queued[pod] {
			continue // it found a place by itself
		}
		delete(d.queued, pod)
		w.called[pod] = group
		w.wake(pod)
		break
	}
	if d.busy == 0 && len(d.queue) == 0 {
		delete(w.groups, group)
	}
}
