package attachment

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

const prefix = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

func resource(t *testing.T, name string) identity.ResourceID {
	t.Helper()
	id, err := identity.ParseResourceID(prefix + name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// attached is a group that has an identity of ours.
func attached(t *testing.T, name string) (*clock, *Groups, compute.Group, identity.ResourceID) {
	t.Helper()
	c := &clock{now: time.Unix(1000, 0)}
	groups := NewGroups(c.read)
	group := compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"}
	id := resource(t, name)
	st := groups.of(group)
	st.read(compute.Identities{UserAssigned: []string{id.String()}}, c.now)
	st.ledger = map[string]Entry{id.Key(): {ResourceID: id.String(), ClientID: "Client"}}
	return c, groups, group, id
}

func TestClaim(t *testing.T) {
	c, groups, group, id := attached(t, "red")
	st := groups.of(group)
	pod := types.NamespacedName{Namespace: "team", Name: "web"}

	if groups.Claim(group, pod, resource(t, "blue")) {
		t.Error("claims what is not there")
	}
	if !groups.Claim(group, pod, id) {
		t.Fatal("does not see what is there")
	}
	if plan := st.plan(nil, nil, 0, c.now); len(plan.Detach) > 0 || plan.Next != c.now.Add(claimTTL) {
		t.Errorf("plan against a claim: %+v", plan)
	}
	// The object never came: the claim runs out.
	c.now = c.now.Add(claimTTL)
	if plan := st.plan(nil, nil, 0, c.now); !slices.Equal(plan.Detach, []string{id.String()}) {
		t.Errorf("plan after the claim: %+v", plan)
	}
	// From here to the end of the update nobody may count on it.
	if groups.Claim(group, pod, id) {
		t.Error("claims what is about to leave")
	}
	st.done(assignment.Request{Detach: []string{id.String()}})
	if groups.Claim(group, pod, id) || len(st.ledger) > 0 {
		t.Error("still there after it left")
	}
}

func TestClaimConfirmed(t *testing.T) {
	c, groups, group, id := attached(t, "red")
	st := groups.of(group)
	pod := types.NamespacedName{Namespace: "team", Name: "web"}
	groups.Claim(group, pod, id)
	need := claimKey{pod, id.Key()}
	if plan := st.plan(map[claimKey]string{need: id.String()}, nil, 0, c.now); !plan.Idle() || !plan.Next.IsZero() {
		t.Errorf("plan %+v", plan)
	}
	if len(st.claims) > 0 {
		t.Error("the claim outlives its object")
	}
	if plan := st.plan(nil, nil, 0, c.now); len(plan.Detach) != 1 {
		t.Errorf("plan without the object: %+v", plan)
	}
}

func TestImmutable(t *testing.T) {
	for _, by := range []string{"client", prefix + "RED"} {
		c, groups, group, _ := attached(t, "red")
		r := New(Parts{Groups: groups}, Settings{Immutable: []string{" " + by, ""}})
		if plan := groups.of(group).plan(nil, r.immutable, 0, c.now); len(plan.Detach) > 0 {
			t.Errorf("immutable by %s: detaches %v", by, plan.Detach)
		}
	}
}

func TestImmutableByAzuresClientID(t *testing.T) {
	c, groups, group, id := attached(t, "red")
	r := New(Parts{Groups: groups}, Settings{Immutable: []string{"AAAA-bbbb"}})
	st := groups.of(group)
	st.ledger[id.Key()] = Entry{ResourceID: id.String()} // its AzureIdentity tells no client id
	st.read(compute.Identities{
		UserAssigned: []string{id.String()}, ClientIDs: map[string]string{id.String(): "aaaa-BBBB"},
	}, c.now)
	if plan := st.plan(nil, r.immutable, 0, c.now); len(plan.Detach) > 0 {
		t.Errorf("detaches %v", plan.Detach)
	}
}

func TestDoubt(t *testing.T) {
	_, groups, group, id := attached(t, "red")
	st := groups.of(group)
	st.doubt(assignment.Request{Detach: []string{id.String()}, Attach: []string{prefix + "blue"}})
	pod := types.NamespacedName{Namespace: "team", Name: "web"}
	if groups.Claim(group, pod, id) || groups.Claim(group, pod, resource(t, "blue")) {
		t.Error("counts on an update of which nobody knows the outcome")
	}
	if _, known := st.known(); known {
		t.Error("does not ask Azure")
	}
	if _, ours := st.ledger[id.Key()]; !ours {
		t.Error("forgets that it is ours")
	}
}

func TestLift(t *testing.T) {
	_, groups, group, id := attached(t, "red")
	st := groups.of(group)
	name := types.NamespacedName{Namespace: "team", Name: "red"}
	st.quarantined[id.Key()] = &quarantine{identities: []types.NamespacedName{name}}
	where, lifted := groups.lift(id.Key())
	if !slices.Equal(where, []compute.Group{group}) || !slices.Equal(lifted, []types.NamespacedName{name}) || len(st.quarantined) > 0 {
		t.Errorf("lifts %v in %v", lifted, where)
	}
	if where, _ := groups.lift(id.Key()); len(where) > 0 {
		t.Errorf("lifts twice: %v", where)
	}
}

func TestDrop(t *testing.T) {
	_, groups, group, id := attached(t, "red")
	groups.drop(group)
	if len(groups.states) != 1 {
		t.Error("forgets a group that has something of ours")
	}
	groups.of(group).done(assignment.Request{Detach: []string{id.String()}})
	groups.drop(group)
	if len(groups.states) != 0 {
		t.Error("remembers a group for nothing")
	}
}

func TestVerdict(t *testing.T) {
	said := func(status, reason string) v1.AzureAssignedIdentityStatus {
		return v1.AzureAssignedIdentityStatus{Status: status, Reason: reason}
	}
	refused := assignment.State{Status: v1.StateCreated, Reason: ReasonIdentityRefused}
	trouble := assignment.State{Status: v1.StateCreated, Reason: ReasonGroupForbidden}
	for _, c := range []struct {
		name       string
		identity   string
		have       v1.AzureAssignedIdentityStatus
		quarantine bool
		trouble    assignment.State
		want       assignment.State
		write      bool
	}{
		{name: "arrived", identity: "red", have: said(v1.StateCreated, ""), want: assignment.State{Status: v1.StateAssigned}, write: true},
		{name: "said so", identity: "red", have: said(v1.StateAssigned, ""), want: assignment.State{Status: v1.StateAssigned}},
		{name: "reason gone", identity: "red", have: said(v1.StateCreated, "IdentityRefused"), want: assignment.State{Status: v1.StateAssigned}, write: true},
		{name: "on its way", identity: "blue", have: said(v1.StateCreated, ""), want: assignment.State{Status: v1.StateCreated}},
		{name: "left by v1.8.17", identity: "blue", have: said(v1.StateUnassigned, ""), want: assignment.State{Status: v1.StateCreated}, write: true},
		{name: "taken away, coming back", identity: "blue", have: said(v1.StateAssigned, ""), want: assignment.State{Status: v1.StateAssigned}},
		{name: "refused", identity: "blue", have: said(v1.StateCreated, ""), quarantine: true, want: refused, write: true},
		{name: "refused, was there", identity: "blue", have: said(v1.StateAssigned, ""), quarantine: true, want: refused, write: true},
		{name: "group in trouble", identity: "blue", have: said(v1.StateCreated, ""), trouble: trouble, want: trouble, write: true},
		{name: "group in trouble, but there", identity: "red", have: said(v1.StateCreated, ""), trouble: trouble, want: assignment.State{Status: v1.StateAssigned}, write: true},
		{name: "trouble over", identity: "blue", have: said(v1.StateCreated, ReasonGroupForbidden), want: assignment.State{Status: v1.StateCreated}, write: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, groups, group, _ := attached(t, "red")
			st := groups.of(group)
			st.trouble = c.trouble
			id := resource(t, c.identity)
			if c.quarantine {
				st.quarantined[id.Key()] = &quarantine{state: refused}
			}
			assigned := &v1.AzureAssignedIdentity{
				ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "web-team-x"},
				Spec: v1.AzureAssignedIdentitySpec{
					Pod: "web", PodNamespace: "team",
					AzureIdentityRef: &v1.AzureIdentityCopy{Spec: v1.AzureIdentitySpec{ResourceID: id.String()}},
				},
				Status: c.have,
			}
			got, _, write := st.verdict(assigned, time.Unix(1000, 0))
			if got != c.want || write != c.write {
				t.Errorf("says %+v, write %v", got, write)
			}
		})
	}
}

func TestDoubled(t *testing.T) {
	for times, want := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if got := doubled(time.Second, times, 5*time.Second); got != want {
			t.Errorf("after %d: %v, want %v", times, got, want)
		}
	}
	if got := doubled(time.Second, 1_000_000, time.Minute); got != time.Minute {
		t.Errorf("after many: %v", got)
	}
}

func TestArriving(t *testing.T) {
	// A MIC that died had asked for red; its successor finds Azure at it.
	c := &clock{now: time.Unix(1000, 0)}
	groups := NewGroups(c.read)
	group := compute.Group{Kind: compute.VMSS, SubscriptionID: "s", ResourceGroup: "rg", Name: "ss"}
	red, blue := resource(t, "red"), resource(t, "blue")
	st := groups.of(group)
	st.ledger = map[string]Entry{red.Key(): {ResourceID: red.String()}}
	pod := types.NamespacedName{Namespace: "team", Name: "web"}
	during := compute.Identities{UserAssigned: []string{red.String(), blue.String()}, Updating: true}
	for range 2 {
		st.read(during, c.now)
		if groups.Claim(group, pod, red) {
			t.Error("counts on what is arriving")
		}
		if !groups.Claim(group, pod, blue) {
			t.Error("doubts what is not ours and was there before")
		}
		needs := map[claimKey]string{{pod, red.Key()}: red.String()}
		if plan := st.plan(needs, nil, 0, c.now); !plan.Idle() || len(plan.Forget) > 0 {
			t.Errorf("plan during the update: %+v", plan)
		}
		if _, known := st.known(); !known || st.soon() != lookAgain {
			t.Error("does not look again")
		}
		if _, known := st.known(); known {
			t.Error("looks again without asking Azure")
		}
	}
	c.now = c.now.Add(patchTimeout)
	st.read(during, c.now)
	if !groups.Claim(group, pod, red) {
		t.Error("waits for somebody else's long update for good")
	}
	during.Updating = false
	st.read(during, c.now)
	if !groups.Claim(group, pod, red) || st.soon() != 0 {
		t.Error("does not believe Azure when it is done")
	}
	during.Updating = true
	st.read(during, c.now)
	if !groups.Claim(group, pod, red) {
		t.Error("doubts what it knew before somebody else's update")
	}
}

func TestNobodyNeedsQuarantined(t *testing.T) {
	_, groups, group, id := attached(t, "red")
	st := groups.of(group)
	bad := resource(t, "bad")
	name := types.NamespacedName{Namespace: "team", Name: "bad"}
	st.quarantined[bad.Key()] = &quarantine{identities: []types.NamespacedName{name}}
	st.quarantined[id.Key()] = &quarantine{} // Azure would not let go of it
	pod := types.NamespacedName{Namespace: "team", Name: "web"}
	if got := st.prune(members{needs: map[claimKey]string{{pod, bad.Key()}: bad.String()}}); len(got) > 0 {
		t.Errorf("lifted while a pod needs it: %v", got)
	}
	if got := st.prune(members{}); !slices.Equal(got, []types.NamespacedName{name}) || len(st.quarantined) != 1 {
		t.Errorf("lifted %v, left %d", got, len(st.quarantined))
	}
}

func TestMissedWrite(t *testing.T) {
	_, groups, group, _ := attached(t, "red")
	st := groups.of(group)
	st.missed()
	if st.soon() != catchUp || st.soon() != 0 {
		t.Error("a missed write is to be looked at again once")
	}
}
