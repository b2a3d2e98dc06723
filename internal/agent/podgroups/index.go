// Questions and answers.

package podgroups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// ErrNoPod means that a control group is not a pod's, or is gone.
var ErrNoPod = errors.New("the control group is not a pod's")

// Index answers which pod a control group belongs to. It is safe for concurrent use.
type Index struct {
	// Appeared is called with the UID of each pod whose group is there, at the start of Run and when
	// it is made. It may be nil. It must not be changed once Run is called, and must not block.
	Appeared func(uid string)

	root    string                  // folder of the kubelet's group, such as /sys/fs/cgroup/kubepods
	inotify func() (watcher, error) // as openInotify
	asking  chan struct{}           // wakes Run for a question; holds one

	mu        sync.Mutex
	pods      map[uint64]string // UID by the ID of a group
	none      map[uint64]time.Time
	questions map[uint64]*question
}

// question is about one group, by one caller or more.
type question struct {
	asked   time.Time
	callers int
	done    chan struct{} // closed with the answer
	uid     string        // the answer: "" for no pod
}

// New returns an index of the groups below a folder, such as /sys/fs/cgroup/kubepods.slice. It
// knows nothing before Run.
func New(root string) *Index {
	return &Index{
		root: root, inotify: openInotify, asking: make(chan struct{}, 1),
		pods: map[uint64]string{}, none: map[uint64]time.Time{}, questions: map[uint64]*question{},
	}
}

const (
	// noneFor is how long a group is remembered to be no pod's, so that a caller that asks again and
	// again costs nothing. It is short because groups beyond the bounds of a pod are among them.
	noneFor = 2 * time.Second
	// maxNone bounds those.
	maxNone = 4096
	// defaultWait is how long Pod waits. A group that a pod made is found after two pauses
	// (maxPause) at most.
	defaultWait = 2 * time.Second
)

// Lookup returns the UID of the pod that a control group belongs to. If the index does not know the
// group, Lookup waits until it has appeared or all pods' groups have been looked at, or until ctx
// ends. It returns ErrNoPod only if the group is certainly no pod's, and never waits for ID 0,
// which no group has.
func (x *Index) Lookup(ctx context.Context, group uint64) (uid string, err error) {
	q, uid := x.ask(group)
	if q != nil {
		defer x.leave(group, q)
		select {
		case <-q.done:
			uid = q.uid
		case <-ctx.Done():
			return "", fmt.Errorf("look for the pod of control group %d: %w", group, context.Cause(ctx))
		}
	}
	if uid == "" {
		return "", ErrNoPod
	}
	return uid, nil
}

// Pod is Lookup with a wait of two seconds at most. ok is false for no pod, and if the wait was in
// vain.
func (x *Index) Pod(group uint64) (uid string, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), defaultWait)
	defer cancel()
	uid, err := x.Lookup(ctx, group)
	return uid, err == nil
}

// ask returns an answer that is known ("" for no pod), or a question to wait for.
func (x *Index) ask(group uint64) (*question, string) {
	if group == 0 {
		return nil, ""
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if uid, known := x.pods[group]; known {
		return nil, uid
	}
	now := time.Now()
	if until, known := x.none[group]; known && now.Before(until) {
		return nil, ""
	}
	q := x.questions[group]
	if q == nil {
		q = &question{asked: now, done: make(chan struct{})}
		x.questions[group] = q
		select {
		case x.asking <- struct{}{}:
		default:
		}
	}
	q.callers++
	return q, ""
}

// leave drops a question that has no caller anymore.
func (x *Index) leave(group uint64, q *question) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if q.callers--; q.callers == 0 && x.questions[group] == q {
		delete(x.questions, group)
	}
}

// put stores a pod's group.
func (x *Index) put(group uint64, uid string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.store(group, uid)
}

// putIfAsked stores a pod's group if there is a question about it, and reports whether.
func (x *Index) putIfAsked(group uint64, uid string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.questions[group] == nil {
		return false
	}
	x.store(group, uid)
	return true
}

// store stores a pod's group and answers the callers that ask for it. The caller must hold mu.
func (x *Index) store(group uint64, uid string) {
	x.pods[group] = uid
	delete(x.none, group)
	x.answer(group, uid)
}

// answer answers the question about a group, if there is one. The caller must hold mu.
func (x *Index) answer(group uint64, uid string) {
	if q := x.questions[group]; q != nil {
		q.uid = uid
		close(q.done)
		delete(x.questions, group)
	}
}

// drop forgets groups that are gone.
func (x *Index) drop(groups ...uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, group := range groups {
		delete(x.pods, group)
	}
}

// period returns when the first and the last question was asked that has no answer, or false if
// there is none.
func (x *Index) period() (first, last time.Time, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, q := range x.questions {
		if first.IsZero() || q.asked.Before(first) {
			first = q.asked
		}
		if q.asked.After(last) {
			last = q.asked
		}
	}
	return first, last, len(x.questions) > 0
}

// exclude answers with no pod the questions that were asked before a time. All pods' groups have
// been looked at since.
func (x *Index) exclude(before time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(x.none, func(_ uint64, until time.Time) bool { return !now.Before(until) })
	for group, q := range x.questions {
		if !q.asked.Before(before) {
			continue
		}
		x.answer(group, "")
		if len(x.none) < maxNone {
			x.none[group] = now.Add(noneFor)
		}
	}
}
