// Pods that send requests before they are known. How long a request waits for its identity is
// Config.ArrivalLimit and Config.BindingLimit, which cmd/nmi sets.

package authorize

import "k8s.io/apimachinery/pkg/types"

// maxPending limits the pods waited for. Callers are attested, so there is at most one entry for
// each live pod, for the moment until SetPod.
const maxPending = 4096

// pendingPods are the pods waited for, by namespace and name. Each channel is closed when its pod
// becomes known.
type pendingPods map[types.NamespacedName]chan struct{}

// await returns a channel that is closed when the pod becomes known.
func (t *Table) await(name types.NamespacedName) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[name]; p != nil {
		closed := make(chan struct{})
		close(closed) // it has just become known: decide again
		return closed
	}
	return t.pending.join(name)
}

// join returns the channel of a pod. If the limit is reached, the namespace with the most entries
// loses one, and the request of that pod decides again. If that is the pod's own namespace, the
// channel is never closed.
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

// makeRoom removes a pod of the namespace with the most entries, unless that namespace has no more
// than the given one would have.
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
