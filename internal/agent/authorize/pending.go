// Pods that are asked about before they are known.

package authorize

import "k8s.io/apimachinery/pkg/types"

// maxPending bounds the pods waited for. Callers are attested, so there is at most one for each
// live pod, for the moment until SetPod.
const maxPending = 4096

// pendingPods are the pods waited for, by namespace and name. Each channel closes when its pod
// comes.
type pendingPods map[types.NamespacedName]chan struct{}

// await returns the channel that closes when a pod becomes known.
func (t *Table) await(name types.NamespacedName) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[name]; p != nil {
		closed := make(chan struct{})
		close(closed) // it came just now: ask again
		return closed
	}
	return t.pending.join(name)
}

// join returns the channel of a pod. When all places are taken, the namespace with the most of them
// gives one up, and its request asks again. If that is the pod's own, the channel never closes.
func (w pendingPods) join(name types.NamespacedName) <-chan struct{} {
	if c := w[name]; c != nil {
		return c
	}
	c := make(chan struct{})
	if len(w) >= maxPending && !w.makeRoom(name.Namespace) {
		return c
	}
	w[name] = c
	return c
}

// makeRoom removes a pod of the namespace that has most places, unless that has no more than the
// given one would have.
func (w pendingPods) makeRoom(namespace string) bool {
	count := map[string]int{}
	for other := range w {
		count[other.Namespace]++
	}
	most := namespace
	for other, n := range count {
		if n > count[most] {
			most = other
		}
	}
	if count[most] <= count[namespace]+1 {
		return false
	}
	for other := range w {
		if other.Namespace == most {
			w.arrived(other)
			return true
		}
	}
	return false
}

// arrived wakes the requests that wait for a pod.
func (w pendingPods) arrived(name types.NamespacedName) {
	if c := w[name]; c != nil {
		close(c)
		delete(w, name)
	}
}
