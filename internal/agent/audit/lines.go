// The lines that wait for the writer.

package audit

import (
	"container/list"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/turns"
)

// maxLines bounds the lines that wait. A line has some 500 bytes.
const maxLines = 4096

// lines is a bounded queue. When it is full, it drops a line of the pod with the most lines, in the
// namespace with the most.
type lines struct {
	ready chan struct{} // receives after a line was added

	mu    sync.Mutex
	queue list.List                   // of *line, oldest first
	share *turns.Queue[*list.Element] // which lines may wait
}

type line struct {
	text  []byte
	entry *turns.Entry[*list.Element]
}

func newLines() *lines {
	return &lines{ready: make(chan struct{}, 1), share: turns.NewQueue[*list.Element](maxLines, maxLines)}
}

// add adds a line of a pod. It reports false if that line or another one was dropped.
func (l *lines) add(pod types.NamespacedName, text []byte) bool {
	l.mu.Lock()
	at := l.queue.PushBack((*line)(nil))
	entry, evicted := l.share.Push(pod.Namespace, pod.Name, at)
	at.Value = &line{text, entry}
	switch {
	case entry == nil:
		l.queue.Remove(at)
	case evicted != nil:
		l.queue.Remove(evicted.Item)
	}
	l.mu.Unlock()
	select {
	case l.ready <- struct{}{}:
	default: // the writer is awake already
	}
	return entry != nil && evicted == nil
}

// next removes the oldest line. It returns nil if there is none.
func (l *lines) next() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.queue.Front()
	if at == nil {
		return nil
	}
	oldest, ok := l.queue.Remove(at).(*line)
	if !ok {
		return nil
	}
	l.share.Remove(oldest.entry)
	return oldest.text
}
