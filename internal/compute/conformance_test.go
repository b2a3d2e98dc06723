package compute

// One test for both: the real Client and the Fake do the same.

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// azure is how the test arranges what lies behind an implementation.
type azure interface {
	SetGroup(group Group, have Identities)
	AddIdentities(resourceIDs ...string)
	DeleteIdentity(resourceID string)
	KeepStaleIDs(keep bool)
	RefuseDeleted(refuse bool)
	PreemptNext()
	SetDuration(d time.Duration)
	ThrottleNext(retryAfter time.Duration)
}

// seam is what users of this package call.
type seam interface {
	Get(ctx context.Context, group Group) (Identities, error)
	Patch(ctx context.Context, group Group, attach, detach []string) error
	Pause(group Group) time.Duration
	ClientID(ctx context.Context, resourceID string) (string, error)
}

var _, _ seam = (*Client)(nil), (*Fake)(nil)

const idPrefix = "/subscriptions/" + subGUID + "/resourceGroups/Ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

func groupsUnderTest() map[string]Group {
	return map[string]Group{
		"vm":   {Kind: VM, SubscriptionID: subGUID, ResourceGroup: "rg", Name: "one"},
		"vmss": {Kind: VMSS, SubscriptionID: subGUID, ResourceGroup: "rg", Name: "set"},
	}
}

// TestConformance runs the stories against the Fake, and against the Client: before a small strict ARM of our own,
// before the emulated Azure, and over TLS.
func TestConformance(t *testing.T) {
	for kind, group := range groupsUnderTest() {
		for name, story := range stories() {
			t.Run("fake/"+kind+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := NewFake()
					story(t, f, f, group)
				})
			})
			t.Run("client/"+kind+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					arm := newARM(t)
					story(t, arm, arm.client("https://arm.example", arm, nil), group)
				})
			})
		}
		for name, story := range stories() {
			t.Run("emulator/"+kind+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					azure := newEmulated(t)
					story(t, azure, newClient(t, "https://arm.example", azure, nil), group)
				})
			})
		}
		t.Run("tls/"+kind, func(t *testing.T) {
			arm := newARM(t)
			server := httptest.NewTLSServer(arm)
			defer server.Close()
			attachAndDetach(t, arm, arm.client(server.URL, server.Client(), nil), group)
		})
	}
}

func stories() map[string]func(*testing.T, azure, seam, Group) {
	return map[string]func(*testing.T, azure, seam, Group){
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

func wantIdentities(t *testing.T, s seam, group Group, want Identities) {
	t.Helper()
	have, err := s.Get(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	anyCase := cmp.Transformer("lower", strings.ToLower) // Azure spells as it likes
	if diff := cmp.Diff(want, have, anyCase, cmpopts.IgnoreFields(Identities{}, "ClientIDs", "PrincipalIDs")); diff != "" {
		t.Errorf("identities (-want +have):\n%s", diff)
	}
}

func mustPatch(t *testing.T, s seam, group Group, attach, detach []string) {
	t.Helper()
	if err := s.Patch(t.Context(), group, attach, detach); err != nil {
		t.Fatal(err)
	}
}

func attachAndDetach(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	a.AddIdentities(ids("a", "b")...)
	mustPatch(t, s, group, ids("a", "b"), nil)
	wantIdentities(t, s, group, Identities{UserAssigned: ids("a", "b")})
	mustPatch(t, s, group, nil, ids("a"))
	wantIdentities(t, s, group, Identities{UserAssigned: ids("b")})
	mustPatch(t, s, group, nil, ids("b"))
	wantIdentities(t, s, group, Identities{})
}

func keepsOthers(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{UserAssigned: ids("kubelet", "old")})
	a.AddIdentities(ids("new")...)
	mustPatch(t, s, group, ids("new"), ids("old"))
	wantIdentities(t, s, group, Identities{UserAssigned: ids("kubelet", "new")})
}

func keepsSystemAssigned(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{SystemAssigned: true})
	a.AddIdentities(ids("a")...)
	mustPatch(t, s, group, ids("a"), nil)
	wantIdentities(t, s, group, Identities{SystemAssigned: true, UserAssigned: ids("a")})
}

func lastLeavesSystem(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{SystemAssigned: true, UserAssigned: ids("a")})
	mustPatch(t, s, group, nil, ids("a"))
	wantIdentities(t, s, group, Identities{SystemAssigned: true})
}

func ignoresCase(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{UserAssigned: ids("Mixed", "stays")})
	mustPatch(t, s, group, nil, []string{strings.ToLower(idPrefix + "Mixed")})
	wantIdentities(t, s, group, Identities{UserAssigned: ids("stays")})
	have, err := s.Get(t.Context(), group)
	if err != nil || !have.Has(strings.ToUpper(idPrefix+"STAYS")) {
		t.Errorf("Has is not blind to case: %v, %v", have, err)
	}
}

func notFound(t *testing.T, _ azure, s seam, group Group) {
	_, err := s.Get(t.Context(), group)
	if !IsNotFound(err) {
		t.Errorf("Get: %v, want IsNotFound", err)
	}
	if err := s.Patch(t.Context(), group, ids("a"), nil); !IsNotFound(err) || !Definite(err) {
		t.Errorf("Patch: %v, want IsNotFound, and Definite", err)
	}
}

func unknownIdentity(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	a.AddIdentities(ids("good")...)
	err := s.Patch(t.Context(), group, ids("good", "ghost"), nil)
	if diff := cmp.Diff(ids("ghost"), BadIdentities(err)); diff != "" {
		t.Errorf("bad identities of %v (-want +have):\n%s", err, diff)
	}
	if IsNotFound(err) || IsConflict(err) || IsForbidden(err) || !Definite(err) {
		t.Errorf("%v is of another kind as well, or not Definite", err)
	}
	wantIdentities(t, s, group, Identities{})
	mustPatch(t, s, group, ids("good"), nil)
}

func throttled(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	a.AddIdentities(ids("a")...)
	a.ThrottleNext(37 * time.Second)
	err := s.Patch(t.Context(), group, ids("a"), nil)
	if wait, ok := RetryAfter(err); !ok || wait != 37*time.Second || !Definite(err) {
		t.Errorf("RetryAfter(%v) = %v, %v", err, wait, ok)
	}
	if wait := s.Pause(group); wait != 37*time.Second {
		t.Errorf("Pause = %v, want the Retry-After", wait)
	}
	other := group
	other.Name = "other"
	if wait := s.Pause(other); wait != 0 {
		t.Errorf("Pause of another group = %v, want 0: it was about one resource", wait)
	}
	<-time.After(30 * time.Second)
	err = s.Patch(t.Context(), group, ids("a"), nil)
	if wait, ok := RetryAfter(err); !ok || wait != 7*time.Second || !Definite(err) {
		t.Errorf("meanwhile: RetryAfter(%v) = %v, %v, want what is left", err, wait, ok)
	}
	<-time.After(7 * time.Second)
	if wait := s.Pause(group); wait != 0 {
		t.Errorf("Pause = %v, want 0 after the Retry-After", wait)
	}
	mustPatch(t, s, group, ids("a"), nil)
}

func oneAtATime(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	a.AddIdentities(ids("a", "b")...)
	a.SetDuration(40 * time.Second)
	first := make(chan error, 1)
	go func() { first <- s.Patch(t.Context(), group, ids("a"), nil) }()
	synctest.Wait()
	if err := s.Patch(t.Context(), group, ids("b"), nil); !IsConflict(err) || IsLocked(err) || Definite(err) {
		t.Errorf("second update meanwhile: %v, want IsConflict alone", err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	wantIdentities(t, s, group, Identities{UserAssigned: ids("a")})
}

func takesItsTime(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	a.AddIdentities(ids("a")...)
	a.SetDuration(40 * time.Second)
	start := time.Now()
	mustPatch(t, s, group, ids("a"), nil)
	if took := time.Since(start); took < 40*time.Second || took > 41*time.Second {
		t.Errorf("took %v, want Azure's 40 s and at most 1 s more", took)
	}
}

func givesUp(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	a.AddIdentities(ids("a", "b")...)
	a.SetDuration(40 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Patch(ctx, group, ids("a"), nil); !errors.Is(err, context.DeadlineExceeded) || Definite(err) {
		t.Errorf("%v, want the deadline, which is not Definite", err)
	}
	if err := s.Patch(t.Context(), group, ids("b"), nil); !IsConflict(err) {
		t.Errorf("%v, want IsConflict: the first operation goes on", err)
	}
	<-time.After(time.Minute)
	wantIdentities(t, s, group, Identities{UserAssigned: ids("a")})
}

func tooMany(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{})
	if err := s.Patch(t.Context(), group, make([]string, MaxPerPatch+1), nil); err == nil {
		t.Error("151 identities in one request: no error")
	}
}

func nothingToDo(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{UserAssigned: ids("a")})
	a.ThrottleNext(time.Minute) // would hit a write
	mustPatch(t, s, group, nil, ids("never-there"))
}

// affirmed: an identity to attach that is there is named all the same, so that Azure can refuse it.
func affirmed(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{UserAssigned: ids("a")})
	a.ThrottleNext(time.Minute) // hits the write
	if _, throttled := RetryAfter(s.Patch(t.Context(), group, []string{idPrefix + "A"}, nil)); !throttled {
		t.Error("Azure was not asked")
	}
	<-time.After(2 * time.Minute)
	mustPatch(t, s, group, []string{idPrefix + "A", idPrefix + "a"}, nil)
	wantIdentities(t, s, group, Identities{UserAssigned: ids("a")})
}

func attachWins(t *testing.T, a azure, s seam, group Group) {
	a.SetGroup(group, Identities{UserAssigned: ids("a")})
	mustPatch(t, s, group, ids("a"), ids("a"))
	wantIdentities(t, s, group, Identities{UserAssigned: ids("a")})
}
