// How many requests may wait.

package server

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// holds counts the requests that wait for an identity, in all and of each pod,
// so that no pod takes all the places.
type holds struct {
	most, mostPerPod int

	mu   sync.Mutex
	n    int
	pods map[types.NamespacedName]int
}

func newHolds(most, mostPerPod int) *holds {
	return &holds{most: most, mostPerPod: mostPerPod, pods: map[types.NamespacedName]int{}}
}

// take returns the function that gives the place back, nil when there is none.
func (h *holds) take(pod types.NamespacedName) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n >= h.most || h.pods[pod] >= h.mostPerPod {
		return nil
	}
	h.n++
	h.pods[pod]++
	return sync.OnceFunc(func() { h.giveBack(pod) })
}

func (h *holds) giveBack(pod types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n--
	if h.pods[pod]--; h.pods[pod] <= 0 {
		delete(h.pods, pod)
	}
}
