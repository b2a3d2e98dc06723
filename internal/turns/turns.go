// Package turns has a queue that is fair to namespaces, and within a namespace to its pods. A
// namespace with a hundred pods gets no more turns than one with a single pod.
package turns

import "slices"

// Queue is a bounded queue. Namespaces with entries take turns, and so do the callers of a
// namespace. The entries of one caller stay in order. A full queue evicts the newest entry of the
// caller with the most, in the namespace with the most.
//
// It is not safe for concurrent use.
type Queue[T any] struct {
	most, mostPerCaller int

	n          int
	namespaces map[string]*namespace[T]
	turns      []*namespace[T] // next first
}

// namespace and caller exist while they have entries.
type namespace[T any] struct {
	n       int
	callers map[string]*caller[T]
	turns   []*caller[T] // next first
}

type caller[T any] struct {
	queue []*Entry[T] // oldest first
}

// Entry is an item with a place in the queue.
type Entry[T any] struct {
	Item              T
	Namespace, Caller string
}

// NewQueue returns an empty queue for so many entries, in all and of one caller.
func NewQueue[T any](most, mostPerCaller int) *Queue[T] {
	return &Queue[T]{most: most, mostPerCaller: mostPerCaller, namespaces: map[string]*namespace[T]{}}
}

// Len returns the number of entries.
func (q *Queue[T]) Len() int { return q.n }

// Push adds an item. It returns nil if there is no place for it, and the entry that it evicted, or
// nil.
func (q *Queue[T]) Push(inNamespace, ofCaller string, item T) (added, removed *Entry[T]) {
	_, own := q.find(inNamespace, ofCaller)
	if own != nil && len(own.queue) >= q.mostPerCaller {
		return nil, nil
	}
	if q.n >= q.most {
		if removed = q.newestOfGreediest(inNamespace, ofCaller); removed == nil {
			return nil, nil
		}
		q.Remove(removed)
	}
	ns, own := q.find(inNamespace, ofCaller)
	if ns == nil {
		ns = &namespace[T]{callers: map[string]*caller[T]{}}
		q.namespaces[inNamespace] = ns
		q.turns = append(q.turns, ns)
	}
	if own == nil {
		own = &caller[T]{}
		ns.callers[ofCaller] = own
		ns.turns = append(ns.turns, own)
	}
	added = &Entry[T]{Item: item, Namespace: inNamespace, Caller: ofCaller}
	own.queue = append(own.queue, added)
	q.n++
	ns.n++
	return added, removed
}

func (q *Queue[T]) find(inNamespace, ofCaller string) (*namespace[T], *caller[T]) {
	ns := q.namespaces[inNamespace]
	if ns == nil {
		return nil, nil
	}
	return ns, ns.callers[ofCaller]
}

// newestOfGreediest returns the entry to evict for a new one. It returns nil if the new one's
// namespace has the most entries, and its caller has the most within the namespace.
func (q *Queue[T]) newestOfGreediest(inNamespace, ofCaller string) *Entry[T] {
	own, ownCaller := q.find(inNamespace, ofCaller)
	most, nCaller := q.greediest(own), 0
	if most == nil {
		return nil
	}
	if most == own && ownCaller != nil {
		nCaller = len(ownCaller.queue)
	}
	var greediest *caller[T]
	for _, c := range most.turns {
		if (most != own || len(c.queue) > nCaller+1) && (greediest == nil || len(c.queue) > len(greediest.queue)) {
			greediest = c
		}
	}
	if greediest == nil {
		return nil
	}
	return greediest.queue[len(greediest.queue)-1]
}

// greediest returns the namespace with the most entries, or own if no other has at least two more.
func (q *Queue[T]) greediest(own *namespace[T]) *namespace[T] {
	most, n := own, 0
	if own != nil {
		n = own.n
	}
	for _, other := range q.turns {
		if other.n > n+1 && (most == own || other.n > most.n) {
			most = other
		}
	}
	return most
}

// Next returns the entry whose turn it is, of those that qualify, or nil.
func (q *Queue[T]) Next(qualifies func(e *Entry[T]) bool) *Entry[T] {
	for _, ns := range q.turns {
		for _, c := range ns.turns {
			if first := c.queue[0]; qualifies(first) {
				return first
			}
		}
	}
	return nil
}

// Take removes an entry that Next returned. The turn passes to the next caller and namespace.
func (q *Queue[T]) Take(e *Entry[T]) {
	if !q.Remove(e) {
		return
	}
	ns, c := q.find(e.Namespace, e.Caller)
	if c != nil {
		ns.turns = append(without(ns.turns, c), c)
	}
	if ns != nil {
		q.turns = append(without(q.turns, ns), ns)
	}
}

// Remove removes an entry and reports whether it was in the queue.
func (q *Queue[T]) Remove(e *Entry[T]) bool {
	ns, c := q.find(e.Namespace, e.Caller)
	if c == nil {
		return false
	}
	at := slices.Index(c.queue, e)
	if at < 0 {
		return false
	}
	c.queue = slices.Delete(c.queue, at, at+1)
	q.n--
	if ns.n--; ns.n == 0 {
		delete(q.namespaces, e.Namespace)
		q.turns = without(q.turns, ns)
	}
	if len(c.queue) == 0 {
		delete(ns.callers, e.Caller)
		ns.turns = without(ns.turns, c)
	}
	return true
}

// Clear removes all entries and returns them.
func (q *Queue[T]) Clear() []*Entry[T] {
	all := make([]*Entry[T], 0, q.n)
	for _, ns := range q.turns {
		for _, c := range ns.turns {
			all = append(all, c.queue...)
		}
	}
	q.n, q.turns = 0, nil
	clear(q.namespaces)
	return all
}

func without[E comparable](list []E, e E) []E {
	return slices.DeleteFunc(list, func(other E) bool { return other == e })
}
