// The request log: the requests and their outcomes.

package world

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Request is one entry of the log. It never contains a token, a secret, an assertion or a body.
type Request struct {
	Seq     uint64    `json:"seq"` // counts from 1, and continues after Clear
	Time    time.Time `json:"time"`
	Surface string    `json:"surface"`
	Method  string    `json:"method"`
	Path    string    `json:"path"`            // as sent, still escaped
	Query   string    `json:"query,omitempty"` // values of harmless parameters only, others are masked
	Remote  string    `json:"remote,omitempty"`
	Agent   string    `json:"agent,omitempty"` // User-Agent
	// Caller is the VM (imds) or the principal's object ID (arm), or the client ID (entra).
	Caller   string   `json:"caller,omitempty"`
	Status   int      `json:"status"` // 0: no response was sent
	Duration Duration `json:"duration"`
	Fault    string   `json:"fault,omitempty"` // the fault that applied
	// Details are facts about the outcome: operation, named (how many identities a write named),
	// added, removed, clientID, resource, error, retryAfter (of an error).
	Details map[string]string `json:"details,omitempty"`
}

// Filter selects log entries; empty fields match everything.
type Filter struct {
	Surface, Method, Caller string
	// Path is a pattern with *, case-insensitive.
	Path   string
	Status int
	After  uint64 // only entries with a greater Seq
}

func (f Filter) matches(r Request) bool {
	return r.Seq > f.After &&
		(f.Surface == "" || f.Surface == r.Surface) &&
		(f.Method == "" || EqualFold(f.Method, r.Method)) &&
		(f.Caller == "" || EqualFold(f.Caller, r.Caller)) &&
		(f.Status == 0 || f.Status == r.Status) &&
		(f.Path == "" || glob(Fold(f.Path), Fold(r.Path)))
}

// maxLog bounds the log: the oldest entries are dropped first.
const maxLog = 20000

// Log is a bounded log of requests, safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	seq     uint64
	entries []Request
	more    chan struct{} // closed and replaced with every entry
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{more: make(chan struct{})} }

// Add appends an entry and sets its number.
func (l *Log) Add(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	r.Seq = l.seq
	if len(l.entries) >= maxLog {
		l.entries = slices.Delete(l.entries, 0, maxLog/10) // a tenth at a time, so that adding stays cheap
	}
	l.entries = append(l.entries, r)
	close(l.more)
	l.more = make(chan struct{})
}

// Clear removes all entries.
func (l *Log) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = nil
}

// Find returns the entries that the filter selects, oldest first.
func (l *Log) Find(f Filter) []Request {
	found, _ := l.find(f)
	return found
}

// Wait is like Find, but waits until there is a match. It returns nothing if ctx ends first.
func (l *Log) Wait(ctx context.Context, f Filter) []Request {
	for {
		found, more := l.find(f)
		if len(found) > 0 {
			return found
		}
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		}
	}
}

func (l *Log) find(f Filter) ([]Request, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := []Request{}
	for _, r := range l.entries {
		if f.matches(r) {
			found = append(found, r)
		}
	}
	return found, l.more
}
