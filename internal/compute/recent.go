// Recent reads of node groups. A write carries the ETag of the read before it, so a read that its
// caller has just made can serve as that one. The final read of a Patch serves as the caller's next
// read. With a thousand VMs, reads are the scarcest quota of a subscription.

package compute

import (
	"maps"
	"sync"
	"time"
)

// Bounds of recent: a read is reused before a write for beforeWrite, and instead of a Get for
// afterWrite.
const (
	beforeWrite = 15 * time.Second
	afterWrite  = 5 * time.Second
	mostRecent  = 1000 // above this, expired reads are dropped
)

// lastRead is the last read of a group.
type lastRead struct {
	snapshot
	at    time.Time
	final bool // the final read of a Patch that no Get has returned yet
}

// recent holds the last reads. It is safe for concurrent use.
type recent struct {
	mu sync.Mutex
	of map[Group]lastRead
}

// put stores a read. A read without an ETag is not usable before a write.
func (r *recent) put(group Group, have snapshot, final bool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have.etag == "" && !final {
		delete(r.of, group)
		return
	}
	if len(r.of) >= mostRecent {
		maps.DeleteFunc(r.of, func(_ Group, last lastRead) bool { return now.Sub(last.at) >= beforeWrite })
	}
	r.of[group] = lastRead{have, now, final}
}

// after returns the final read of a Patch, once.
func (r *recent) after(group Group, now time.Time) (snapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.of[group]
	if !ok || !last.final || now.Sub(last.at) >= afterWrite {
		return snapshot{}, false
	}
	last.final = false
	r.of[group] = last
	return last.snapshot, true
}

// take removes and returns the stored read for the write that follows.
func (r *recent) take(group Group, now time.Time) (snapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.of[group]
	delete(r.of, group)
	return last.snapshot, ok && last.etag != "" && !last.Updating && now.Sub(last.at) < beforeWrite
}
