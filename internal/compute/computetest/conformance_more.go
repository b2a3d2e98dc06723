// More scenarios of the conformance test: identities that are deleted, operations that fail.

package computetest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/compute"
)

// deletedAndMadeAgain: a group still lists a deleted identity, but without its IDs. An identity
// recreated under its name is a different one, and not on the group until it is detached and
// attached.
func deletedAndMadeAgain(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a", "b")...)
	mustPatch(t, s, group, ids("a", "b"), nil)
	first := idsOf(t, s, group)
	orphaned := compute.Identities{UserAssigned: ids("a", "b"), Orphaned: ids("a")}

	if now, err := s.ClientID(t.Context(), idPrefix+"a"); err != nil || now != first[0] {
		t.Errorf("it has the client ID %q (%v), the group shows %q", now, err, first[0])
	}

	a.DeleteIdentity(idPrefix + "A")
	if now, err := s.ClientID(t.Context(), idPrefix+"a"); !compute.IdentityNotFound(err) {
		t.Errorf("deleted, but it has the client ID %q: %v", now, err)
	}
	wantIdentities(t, s, group, orphaned)
	if gone := idsOf(t, s, group); gone != [2]string{} {
		t.Errorf("deleted, but it has the IDs %v", gone)
	}
	a.AddIdentities(ids("a")...)
	wantIdentities(t, s, group, orphaned)
	mustPatch(t, s, group, ids("a"), nil) // already listed: no change
	wantIdentities(t, s, group, orphaned)

	mustPatch(t, s, group, nil, ids("a"))
	mustPatch(t, s, group, ids("a"), nil)
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a", "b")})
	second := idsOf(t, s, group)
	if first[0] == second[0] || first[1] == second[1] || second[0] == "" || second[1] == "" {
		t.Errorf("IDs %v, then %v, want others", first, second)
	}
	if now, err := s.ClientID(t.Context(), idPrefix+"a"); err != nil || now != second[0] {
		t.Errorf("it has the client ID %q (%v), the group shows %q", now, err, second[0])
	}
}

// idsOf returns the client and principal ID of identity "a".
func idsOf(t *testing.T, s Client, group compute.Group) (ids [2]string) {
	t.Helper()
	have, err := s.Get(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for i, from := range []map[string]string{have.ClientIDs, have.PrincipalIDs} {
		for id, value := range from {
			if strings.EqualFold(id, idPrefix+"a") {
				ids[i] = value
			}
		}
	}
	return ids
}

// staleIDs: Azure still shows the IDs of the deleted identity.
func staleIDs(t *testing.T, a Azure, s Client, group compute.Group) {
	a.KeepStaleIDs(true)
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a")...)
	mustPatch(t, s, group, ids("a"), nil)
	first := idsOf(t, s, group)
	for range 2 { // deleted, then recreated
		a.DeleteIdentity(idPrefix + "a")
		wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a")})
		a.AddIdentities(ids("a")...)
		if stale := idsOf(t, s, group); stale != first {
			t.Errorf("shows %v, want %v as before", stale, first)
		}
	}
	if now, err := s.ClientID(t.Context(), idPrefix+"a"); err != nil || now == first[0] {
		t.Errorf("it has the client ID %q (%v), as before", now, err)
	}
	mustPatch(t, s, group, nil, ids("a"))
	mustPatch(t, s, group, ids("a"), nil)
	if fresh := idsOf(t, s, group); fresh == first {
		t.Errorf("attached anew, but shows %v yet", fresh)
	}
}

// deletedInTheWay: a deleted identity that the group lists makes Azure refuse unrelated updates and
// name it.
func deletedInTheWay(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("gone", "stays")})
	a.AddIdentities(ids("new")...)
	a.RefuseDeleted(true)
	a.DeleteIdentity(idPrefix + "gone")
	err := s.Patch(t.Context(), group, ids("new"), nil)
	anyCase := cmp.Transformer("lower", strings.ToLower)
	if diff := cmp.Diff(ids("gone"), compute.BadIdentities(err), anyCase); diff != "" || !compute.IsRefused(err) {
		t.Errorf("bad identities of %v (-want +have):\n%s", err, diff)
	}
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("gone", "stays"), Orphaned: ids("gone")})
	mustPatch(t, s, group, ids("new"), ids("gone"))
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("new", "stays")})
}

// preempted: Azure accepts the update, and a later one preempts it.
func preempted(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a")...)
	a.SetDuration(10 * time.Second)
	a.PreemptNext()
	start := time.Now()
	err := s.Patch(t.Context(), group, ids("a"), nil)
	if !compute.IsConflict(err) || compute.IsRefused(err) || compute.BadIdentities(err) != nil || compute.Definite(err) {
		t.Errorf("%v, want IsConflict and nothing else", err)
	}
	if took := time.Since(start); took < 10*time.Second {
		t.Errorf("took %v, want to hear of it at the end", took)
	}
	wantIdentities(t, s, group, compute.Identities{})
	mustPatch(t, s, group, ids("a"), nil)
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a")})
}

// showsItsGoal: while Azure updates a group, it shows the identities that it will have.
func showsItsGoal(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("leaves", "stays")})
	a.AddIdentities(ids("new")...)
	a.SetDuration(40 * time.Second)
	done := make(chan error, 1)
	go func() { done <- s.Patch(t.Context(), group, ids("new"), ids("leaves")) }()
	<-time.After(20 * time.Second)
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("new", "stays"), Updating: true})
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("new", "stays")})
}
