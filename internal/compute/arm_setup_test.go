// Setup of the tests' ARM server, and access to the requests that it got.

package compute

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The methods below are named like those of Fake, so that one test can set up either.

func (s *armServer) SetGroup(group Group, have Identities) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &armGroup{kind: string(kindOf(len(have.UserAssigned), have.SystemAssigned)), ids: map[string]int{}, etag: 1}
	for _, id := range have.UserAssigned {
		s.know(id)
		g.ids[id] = s.known[strings.ToLower(id)]
	}
	s.groups[strings.ToLower(group.ResourceID())] = g
}

func (s *armServer) AddIdentities(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.know(id)
	}
}

func (s *armServer) know(id string) {
	if key := strings.ToLower(id); s.known[key] == 0 {
		s.made++
		s.known[key] = s.made
	}
}

func (s *armServer) DeleteIdentity(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, strings.ToLower(id))
}

func (s *armServer) KeepStaleIDs(keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = keep
}

func (s *armServer) RefuseDeleted(refuse bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strict = refuse
}

func (s *armServer) PreemptNext() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcome = `{"code":"OperationPreempted","message":"Operation execution has been preempted by a more recent operation."}`
}

func (s *armServer) SetDuration(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.duration = d
}

func (s *armServer) ThrottleNext(d time.Duration) {
	s.fail(answer{method: http.MethodPatch, status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": strconv.Itoa(int(d.Seconds()))}})
}

func (s *armServer) fail(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, a)
}

// seen returns the requests with that method.
func (s *armServer) seen(method string) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(r request) bool { return method != "" && r.Method != method })
}

// wantTook expects that a time between these two has passed.
func wantTook(t *testing.T, start time.Time, least, most time.Duration) {
	t.Helper()
	if took := time.Since(start); took < least || took > most {
		t.Errorf("took %v, want %v to %v", took, least, most)
	}
}
