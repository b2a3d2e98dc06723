// The limit on concurrent writes per node group.

package assignedidentity

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/compute"
)

// writers keeps the pods of one node group from occupying all workers. Pods beyond the limit
// release their worker and are woken in turn.
type writers struct {
	most int
	wake func(...types.NamespacedName)

	mu     sync.Mutex
	groups map[compute.Group]*slots
	// called are pods that were woken and have not been reconciled yet, with their group. A woken
	// pod that has nothing to write passes its turn on. Otherwise the pods behind it would wait
	// forever.
	called map[types.NamespacedName]compute.Group
}

// newWriters returns writers that let most pods of a group write at a time.
func newWriters(most int, wake func(...types.NamespacedName)) writers {
	return writers{
		most: max(most, 1), wake: wake, groups: map[compute.Group]*slots{}, called: map[types.NamespacedName]compute.Group{},
	}
}

// slots are those of one group, and the queue of its pods.
type slots struct {
	busy   int
	queue  []types.NamespacedName
	queued map[types.NamespacedName]bool
}

// enter acquires a slot, or queues the pod and returns false.
func (w *writers) enter(group compute.Group, pod types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.groups[group]
	if s == nil {
		s = &slots{queued: map[types.NamespacedName]bool{}}
		w.groups[group] = s
	}
	if s.busy < w.most {
		s.busy++
		delete(s.queued, pod)
		delete(w.called, pod)
		return true
	}
	if !s.queued[pod] {
		s.queued[pod] = true
		s.queue = append(s.queue, pod)
	}
	return false
}

// leave releases the slot and wakes the next pod.
func (w *writers) leave(group compute.Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groups[group].busy--
	w.next(group)
}

// seen records that a pod was reconciled, whether it wrote or not. A woken pod that did not enter
// gives its turn to the next.
func (w *writers) seen(pod types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if group, called := w.called[pod]; called {
		delete(w.called, pod)
		w.next(group)
	}
}

// next wakes the next waiting pod if there is a free slot. The caller must hold mu.
func (w *writers) next(group compute.Group) {
	s := w.groups[group]
	if s == nil {
		return
	}
	for s.busy < w.most && len(s.queue) > 0 {
		pod := s.queue[0]
		s.queue = s.queue[1:]
		if !s.queued[pod] {
			continue // it has entered by itself
		}
		delete(s.queued, pod)
		w.called[pod] = group
		w.wake(pod)
		break
	}
	if s.busy == 0 && len(s.queue) == 0 {
		delete(w.groups, group)
	}
}
