// The list of all ledgers that the first passes of a new leader share.

package ledger

import (
	"context"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/compute"
)

// snapshotTTL is how long the list is used: existing groups are reconciled in the first minutes,
// because of their pods or the drift comparison.
const snapshotTTL = 5 * time.Minute

// Snapshot reads records with one list request instead of one request per group. It hands out each
// group's record once; later reads, and all reads after snapshotTTL, go to the API server. It may
// be used concurrently.
type Snapshot struct {
	Store Store

	mu      sync.Mutex
	records map[string]Record // nil until listed
	taken   map[compute.Group]bool
	expires time.Time
	expired bool
}

// Take returns a group's record. The first call also returns all groups that have one.
func (s *Snapshot) Take(
	ctx context.Context, group compute.Group, now time.Time,
) (record Record, all []compute.Group, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records != nil && !now.Before(s.expires) {
		s.records, s.taken, s.expired = nil, nil, true
	}
	if s.expired || s.taken[group] {
		record, err = s.Store.Load(ctx, group)
		return record, nil, err
	}
	if s.records == nil {
		records, groups, err := s.Store.All(ctx)
		if err != nil {
			return Record{}, nil, err
		}
		all = groups
		s.records, s.taken, s.expires = records, map[compute.Group]bool{}, now.Add(snapshotTTL)
	}
	name := s.Store.nameOf(group)
	record, found := s.records[name]
	if !found {
		record.Entries = map[string]Entry{}
	}
	record.Group, record.Namespace, record.Name = group, s.Store.Namespace, name
	delete(s.records, name)
	s.taken[group] = true
	return record, all, nil
}
