// The startup phase: Azure is not updated before all pods are placed.

package assignedidentity

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// backlog holds the pods that existed when the controller started and are not placed yet.
type backlog struct {
	mu          sync.Mutex
	begun, over bool
	// early are pods placed before the initial list was known. open are the pods of that list that
	// are not placed yet.
	early, open map[types.NamespacedName]bool
}

// begin records the initial list of pods and queues those that have not been placed. This includes
// a pod that was deleted between the listing and its first event: without a reconcile it would
// block all others forever.
func (b *backlog) begin(pods []types.NamespacedName, caughtUp func(), wake func(...types.NamespacedName)) {
	b.mu.Lock()
	b.begun, b.open = true, map[types.NamespacedName]bool{}
	var open []types.NamespacedName
	for _, pod := range pods {
		if !b.early[pod] {
			b.open[pod] = true
			open = append(open, pod)
		}
	}
	b.early = nil
	ended := b.end()
	b.mu.Unlock()
	wake(open...)
	if ended {
		caughtUp()
	}
}

// placed records that a pod's needs are known. The last one ends the backlog.
func (b *backlog) placed(pod types.NamespacedName, caughtUp func()) {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return
	}
	if !b.begun {
		if b.early == nil {
			b.early = map[types.NamespacedName]bool{}
		}
		b.early[pod] = true
	}
	delete(b.open, pod)
	ended := b.end()
	b.mu.Unlock()
	if ended {
		caughtUp()
	}
}

// end reports whether the backlog has just ended. The caller must hold mu.
func (b *backlog) end() bool {
	if b.over || !b.begun || len(b.open) > 0 {
		return false
	}
	b.over = true
	return true
}
