// Package pending bounds the requests that wait for an identity.
package pending

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/turns"
)

// Requests are the requests that wait, up to a limit for all and a limit for each pod. When there
// are too many, the newest request of the pod with the most is evicted, in the namespace with the
// most. It is safe for concurrent use.
type Requests struct {
	mu    sync.Mutex
	queue *turns.Queue[chan struct{}]
}

// Request is one request that waits.
type Request struct {
	requests *Requests
	entry    *turns.Entry[chan struct{}]
}

// New returns an empty set of Requests with the limits.
func New(limit, limitPerPod int) *Requests {
	return &Requests{queue: turns.NewQueue[chan struct{}](limit, limitPerPod)}
}

// Add adds a request of a pod. It returns nil if the request has to be refused.
func (r *Requests) Add(pod types.NamespacedName) *Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry, evicted := r.queue.Push(pod.Namespace, pod.Name, make(chan struct{}))
	if evicted != nil {
		close(evicted.Item)
	}
	if entry == nil {
		return nil
	}
	return &Request{r, entry}
}

// Len returns how many requests wait.
func (r *Requests) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.Len()
}

// Evicted returns a channel that is closed when the request has to be refused after all.
func (r *Request) Evicted() <-chan struct{} { return r.entry.Item }

// Remove ends the wait. Further calls do nothing.
func (r *Request) Remove() {
	r.requests.mu.Lock()
	defer r.requests.mu.Unlock()
	r.requests.queue.Remove(r.entry)
}
