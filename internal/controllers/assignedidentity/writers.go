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
	d := w.groups[group]
	d.busy--
	if len(d.queue) > 0 {
		next := d.queue[0]
		d.queue = d.queue[1:]
		delete(d.queued, next)
		w.wake(next)
	}
	if d.busy == 0 && len(d.queue) == 0 {
		delete(w.groups, group)
	}
}
