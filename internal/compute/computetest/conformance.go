// The test that the fake and the client both pass.

package computetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podid-io/podid/internal/compute"
)

// Azure prepares the service that an implementation talks to.
type Azure interface {
	SetGroup(group compute.Group, have compute.Identities)
	AddIdentities(resourceIDs ...string)
	DeleteIdentity(resourceID string)
	KeepStaleIDs(keep bool)
	RefuseDeleted(refuse bool)
	PreemptNext()
	SetDuration(d time.Duration)
	ThrottleNext(retryAfter time.Duration)
}

// Client is the part of compute.Client that its users call.
type Client interface {
	Get(ctx context.Context, group compute.Group) (compute.Identities, error)
	Patch(ctx context.Context, group compute.Group, attach, detach []string) error
	Pause(group compute.Group, since time.Time) time.Duration
	ClientID(ctx context.Context, resourceID string) (string, error)
}

var _, _ Client = (*compute.Client)(nil), (*Fake)(nil)

const (
	subscription = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	idPrefix     = "/subscriptions/" + subscription + "/resourceGroups/Ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
)

// Conform runs every scenario, for a VM and a scale set, with the Azure and client that open
// returns. The Azure has the subscription aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee.
func Conform(t *testing.T, open func(t *testing.T) (Azure, Client)) {
	t.Helper()
	for _, group := range []compute.Group{
		{Kind: compute.VM, SubscriptionID: subscription, ResourceGroup: "rg", Name: "one"},
		{Kind: compute.VMSS, SubscriptionID: subscription, ResourceGroup: "rg", Name: "set"},
	} {
		for name, story := range stories() {
			t.Run(string(group.Kind)+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					azure, client := open(t)
					story(t, azure, client, group)
				})
			})
		}
	}
}

func stories() map[string]func(*testing.T, Azure, Client, compute.Group) {
	return map[string]func(*testing.T, Azure, Client, compute.Group){
		"attach and detach":   attachAndDetach,
		"keeps others":        keepsOthers,
		"system-assigned":     keepsSystemAssigned,
		"letter case":         ignoresCase,
		"not found":           notFound,
		"unknown identity":    unknownIdentity,
		"throttled":           throttled,
		"one at a time":       oneAtATime,
		"gives up in time":    givesUp,
		"too many":            tooMany,
		"nothing to do":       nothingToDo,
		"affirmed":            affirmed,
		"takes its time":      takesItsTime,
		"attach wins":         attachWins,
		"last leaves, system": lastLeavesSystem,
		"deleted, made again": deletedAndMadeAgain,
		"stale IDs":           staleIDs,
		"deleted, in the way": deletedInTheWay,
		"preempted":           preempted,
		"shows its goal":      showsItsGoal,
	}
}

func ids(names ...string) []string {
	var all []string
	for _, name := range names {
		all = append(all, idPrefix+name)
	}
	return all
}

func wantIdentities(t *testing.T, s Client, group compute.Group, want compute.Identities) {
	t.Helper()
	have, err := s.Get(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	anyCase := cmp.Transformer("lower", strings.ToLower) // Azure may change the case
	if diff := cmp.Diff(want, have, anyCase, cmpopts.IgnoreFields(compute.Identities{}, "ClientIDs", "PrincipalIDs")); diff != "" {
		t.Errorf("identities (-want +have):\n%s", diff)
	}
}

func mustPatch(t *testing.T, s Client, group compute.Group, attach, detach []string) {
	t.Helper()
	if err := s.Patch(t.Context(), group, attach, detach); err != nil {
		t.Fatal(err)
	}
}

func attachAndDetach(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a", "b")...)
	mustPatch(t, s, group, ids("a", "b"), nil)
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a", "b")})
	mustPatch(t, s, group, nil, ids("a"))
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("b")})
	mustPatch(t, s, group, nil, ids("b"))
	wantIdentities(t, s, group, compute.Identities{})
}

func keepsOthers(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("kubelet", "old")})
	a.AddIdentities(ids("new")...)
	mustPatch(t, s, group, ids("new"), ids("old"))
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("kubelet", "new")})
}

func keepsSystemAssigned(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{SystemAssigned: true})
	a.AddIdentities(ids("a")...)
	mustPatch(t, s, group, ids("a"), nil)
	wantIdentities(t, s, group, compute.Identities{SystemAssigned: true, UserAssigned: ids("a")})
}

func lastLeavesSystem(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{SystemAssigned: true, UserAssigned: ids("a")})
	mustPatch(t, s, group, nil, ids("a"))
	wantIdentities(t, s, group, compute.Identities{SystemAssigned: true})
}

func ignoresCase(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("Mixed", "stays")})
	mustPatch(t, s, group, nil, []string{strings.ToLower(idPrefix + "Mixed")})
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("stays")})
	have, err := s.Get(t.Context(), group)
	if err != nil || !have.Has(strings.ToUpper(idPrefix+"STAYS")) {
		t.Errorf("Has is not blind to case: %v, %v", have, err)
	}
}

func notFound(t *testing.T, _ Azure, s Client, group compute.Group) {
	_, err := s.Get(t.Context(), group)
	if !compute.IsNotFound(err) {
		t.Errorf("Get: %v, want IsNotFound", err)
	}
	if err := s.Patch(t.Context(), group, ids("a"), nil); !compute.IsNotFound(err) || !compute.Definite(err) {
		t.Errorf("Patch: %v, want IsNotFound, and Definite", err)
	}
}

func unknownIdentity(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("good")...)
	err := s.Patch(t.Context(), group, ids("good", "ghost"), nil)
	if diff := cmp.Diff(ids("ghost"), compute.BadIdentities(err)); diff != "" {
		t.Errorf("bad identities of %v (-want +have):\n%s", err, diff)
	}
	if compute.IsNotFound(err) || compute.IsConflict(err) || compute.IsForbidden(err) || !compute.Definite(err) {
		t.Errorf("%v is of another kind as well, or not Definite", err)
	}
	wantIdentities(t, s, group, compute.Identities{})
	mustPatch(t, s, group, ids("good"), nil)
}

func throttled(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a")...)
	a.ThrottleNext(37 * time.Second)
	err := s.Patch(t.Context(), group, ids("a"), nil)
	if wait, ok := compute.RetryAfter(err); !ok || wait != 37*time.Second || !compute.Definite(err) {
		t.Errorf("compute.RetryAfter(%v) = %v, %v", err, wait, ok)
	}
	if wait := s.Pause(group, time.Time{}); wait != 37*time.Second {
		t.Errorf("Pause = %v, want the Retry-After", wait)
	}
	other := group
	other.Name = "other"
	if wait := s.Pause(other, time.Time{}); wait != 0 {
		t.Errorf("Pause of another group = %v, want 0: it was about one resource", wait)
	}
	<-time.After(30 * time.Second)
	err = s.Patch(t.Context(), group, ids("a"), nil)
	if wait, ok := compute.RetryAfter(err); !ok || wait != 7*time.Second || !compute.Definite(err) {
		t.Errorf("meanwhile: compute.RetryAfter(%v) = %v, %v, want what is left", err, wait, ok)
	}
	<-time.After(7 * time.Second)
	if wait := s.Pause(group, time.Time{}); wait != 0 {
		t.Errorf("Pause = %v, want 0 after the Retry-After", wait)
	}
	mustPatch(t, s, group, ids("a"), nil)
}

func oneAtATime(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a", "b")...)
	a.SetDuration(40 * time.Second)
	first := make(chan error, 1)
	go func() { first <- s.Patch(t.Context(), group, ids("a"), nil) }()
	synctest.Wait()
	if err := s.Patch(t.Context(), group, ids("b"), nil); !compute.IsConflict(err) || compute.IsLocked(err) || compute.Definite(err) {
		t.Errorf("second update meanwhile: %v, want IsConflict alone", err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a")})
}

func takesItsTime(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a")...)
	a.SetDuration(40 * time.Second)
	start := time.Now()
	mustPatch(t, s, group, ids("a"), nil)
	if took := time.Since(start); took < 40*time.Second || took > 41*time.Second {
		t.Errorf("took %v, want Azure's 40 s and at most 1 s more", took)
	}
}

func givesUp(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	a.AddIdentities(ids("a", "b")...)
	a.SetDuration(40 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Patch(ctx, group, ids("a"), nil); !errors.Is(err, context.DeadlineExceeded) || compute.Definite(err) {
		t.Errorf("%v, want the deadline, which is not Definite", err)
	}
	if err := s.Patch(t.Context(), group, ids("b"), nil); !compute.IsConflict(err) {
		t.Errorf("%v, want IsConflict: the first operation goes on", err)
	}
	<-time.After(time.Minute)
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a")})
}

func tooMany(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{})
	if err := s.Patch(t.Context(), group, make([]string, compute.MaxPerPatch+1), nil); err == nil {
		t.Error("151 identities in one request: no error")
	}
}

func nothingToDo(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("a")})
	a.ThrottleNext(time.Minute) // would hit a write
	mustPatch(t, s, group, nil, ids("never-there"))
}

// affirmed: an identity to attach is named even if it is attached already, so that Azure can refuse
// it.
func affirmed(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("a")})
	a.ThrottleNext(time.Minute) // hits the write
	if _, throttled := compute.RetryAfter(s.Patch(t.Context(), group, []string{idPrefix + "A"}, nil)); !throttled {
		t.Error("Azure was not asked")
	}
	<-time.After(2 * time.Minute)
	mustPatch(t, s, group, []string{idPrefix + "A", idPrefix + "a"}, nil)
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a")})
}

func attachWins(t *testing.T, a Azure, s Client, group compute.Group) {
	a.SetGroup(group, compute.Identities{UserAssigned: ids("a")})
	mustPatch(t, s, group, ids("a"), ids("a"))
	wantIdentities(t, s, group, compute.Identities{UserAssigned: ids("a")})
}
