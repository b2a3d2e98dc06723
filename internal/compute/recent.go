package compute

// What was read of node groups a moment ago. A write is tied to the ETag of the read in front of
// it, so a read that its caller has just made serves as that; and the read at the end of a Patch
// serves as the caller's next one. With a thousand VMs, reads are what a subscription has too few
// of.

import (
	"maps"
	"sync"
	"time"
)

// Bounds of recent: a read is used in front of a write for beforeWrite, and instead of a Get for
// afterWrite.
const (
	beforeWrite = 15 * time.Second
	afterWrite  = 5 * time.Second
	mostRecent  = 1000 // beyond it, old ones are looked for and dropped
)

// lastRead is the last read of a group.
type lastRead struct {
	snapshot
	at    time.Time
	final bool // it ended a Patch, and no Get has returned it yet
}

// recent holds the last reads. It is safe for concurrent use.
type recent struct {
	mu sync.Mutex
	of map[Group]lastRead
}

// put remembers a read. One without an ETag must not stand in front of a write.
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

// after returns, once, what the end of a Patch has read.
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

// take returns and forgets what was read, for the write that follows.
func (r *recent) take(group Group, now time.Time) (snapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.of[group]
	delete(r.of, group)
	return last.snapshot, ok && last.etag != "" && !last.Updating && now.Sub(last.at) < beforeWrite
}
