// How many requests may wait.

package server

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/turns"
)

// holds bounds the requests that wait for an identity, in all and of each pod. When all places are
// taken, the newest of the pod that has most gives way, in the namespace that has most.
type holds struct {
	mu     sync.Mutex
	places *turns.Queue[chan struct{}]
}

// hold is the place of one request.
type hold struct {
	of    *holds
	place *turns.Entry[chan struct{}]
}

func newHolds(most, mostPerPod int) *holds {
	return &holds{places: turns.NewQueue[chan struct{}](most, mostPerPod)}
}

// take returns a place, nil when there is none.
func (h *holds) take(pod types.NamespacedName) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	place, gaveWay := h.places.Push(pod.Namespace, pod.Name, make(chan struct{}))
	if gaveWay != nil {
		close(gaveWay.Item)
	}
	if place == nil {
		return nil
	}
	return &hold{h, place}
}

// lost closes when the place went to another request.
func (h *hold) lost() <-chan struct{} { return h.place.Item }

// release gives the place back. It may be called more than once.
func (h *hold) release() {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.of.places.Remove(h.place)
}
