package attachment

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/reason"
)

const (
	rightClient = "aaaaaaaa-1111-2222-3333-444444444444"
	wrongClient = "bbbbbbbb-1111-2222-3333-444444444444"
)

// placeBy places a pod that needs an identity by an AzureIdentity of the pod's name.
func (r *rig) placeBy(pod, name string, change func(*assignment.Need)) assignment.Progress {
	r.t.Helper()
	n := needFor(r.t, name)
	n.Identity = podNamed(pod)
	if change != nil {
		change(&n)
	}
	return r.groups.Place(podNamed(pod), r.group, []assignment.Need{n})[0]
}

func withClient(id string) func(*assignment.Need) {
	return func(n *assignment.Need) { n.ClientID = id }
}

// stateOf returns the state of a pod's identity.
func (r *rig) stateOf(pod, name string) assignment.State {
	r.t.Helper()
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	key := resource(r.t, name).Key()
	return r.st.progress(key, r.st.demand.needs[key].pods[podNamed(pod)][podNamed(pod)].requester).State
}

func listing(names ...string) compute.Identities {
	have := compute.Identities{ClientIDs: map[string]string{}, PrincipalIDs: map[string]string{}}
	for _, name := range names {
		have.UserAssigned = append(have.UserAssigned, prefix+name)
		have.ClientIDs[prefix+name], have.PrincipalIDs[prefix+name] = strings.ToUpper(rightClient), "principal-"+name
	}
	return have
}

// Only the AzureIdentity with the wrong client ID is refused, once it is known which one is right.
func TestClientIDMismatch(t *testing.T) {
	r := newRig(t, "red")
	r.read(listing("red"))
	if got := r.placeBy("right", "red", withClient(strings.ToUpper(rightClient))); got.Status != v1.StateAssigned {
		t.Errorf("the right client ID: %+v", got)
	}
	r.placeBy("none", "red", nil)
	if got := r.placeBy("wrong", "red", withClient(wrongClient)); got.Status != v1.StateCreated || got.Reason != "" || r.st.known() {
		t.Errorf("before Azure was asked: %+v", got)
	}
	found := r.st.openMismatches()
	if len(found) != 1 || r.st.resolve(found[0], rightClient) {
		t.Fatalf("mismatches %+v", found)
	}
	if notified := r.st.changes(); !slices.Equal(notified, []types.NamespacedName{podNamed("wrong")}) {
		t.Errorf("notified %v", notified)
	}
	wrong := r.stateOf("wrong", "red")
	if wrong.Reason != reason.ClientIDMismatch.Name() || !strings.Contains(wrong.Message, "correct spec.clientID") || strings.Contains(wrong.Message, rightClient) {
		t.Errorf("%+v", wrong)
	}
	for _, pod := range []string{"right", "none"} {
		if got := r.stateOf(pod, "red"); got.Status != v1.StateAssigned {
			t.Errorf("%s is affected: %+v", pod, got)
		}
	}
	if got := r.placeBy("wrong", "red", withClient(rightClient)); got.Status != v1.StateAssigned {
		t.Errorf("corrected: %+v", got)
	}
}

// An identity that only a wrong AzureIdentity needs is detached, and attached again once the
// AzureIdentity is corrected.
func TestMismatchDetached(t *testing.T) {
	r := newRig(t)
	r.placeBy("wrong", "red", withClient(wrongClient))
	plan := r.plan()
	if len(plan.Attach) != 1 {
		t.Fatalf("plan %+v", plan)
	}
	r.record(plan.Attach)
	r.st.done(assignment.Request{Attach: plan.Attach})
	if got := r.stateOf("wrong", "red"); got.Status == v1.StateAssigned {
		t.Error("Assigned before the client ID was read")
	}
	r.st.readClientIDs(listing("red"), nil)
	r.st.markUnknown(r.st.openMismatches()) // the lookup fails: the listed client ID counts
	if got := r.stateOf("wrong", "red"); got.Reason != reason.ClientIDMismatch.Name() {
		t.Errorf("%+v", got)
	}
	plan = r.plan()
	if len(plan.Detach) != 1 {
		t.Fatalf("plan %+v", plan)
	}
	r.done(assignment.Request{Detach: plan.Detach})
	r.read(compute.Identities{})
	if plan = r.plan(); !plan.Idle() || r.stateOf("wrong", "red").Reason != reason.ClientIDMismatch.Name() {
		t.Errorf("again: %+v, %+v", plan, r.stateOf("wrong", "red"))
	}
	r.placeBy("wrong", "red", withClient(rightClient))
	if plan = r.plan(); len(plan.Attach) != 1 || !r.woken() {
		t.Errorf("corrected: %+v", plan)
	}
}

// Pods get the cluster's own identities only if the policy names them.
func TestClusterIdentity(t *testing.T) {
	r := newRig(t, "kubelet")
	r.st.azure.clientIDs.cluster = map[string]bool{rightClient: true}
	r.read(listing("kubelet"))
	if got := r.placeBy("any", "kubelet", nil); got.Reason != reason.ClusterIdentity.Name() || !strings.Contains(got.Message, "AzureIdentityPolicy") {
		t.Errorf("%+v", got)
	}
	if got := r.placeBy("named", "kubelet", func(n *assignment.Need) { n.Named = true }); got.Status != v1.StateAssigned {
		t.Errorf("named by the policy: %+v", got)
	}
}

// What is on the group without podid's doing counts as there when Azure has taken it in an update,
// or when the policy names it. It is never taken away, also by the next leader.
func TestForeignVerified(t *testing.T) {
	r := newRig(t)
	m := r.controllerOf(new(bool))
	r.read(listing("red"))
	if got := r.placeBy("named", "red", func(n *assignment.Need) { n.Named = true }); got.Status != v1.StateAssigned || !r.plan().Idle() {
		t.Errorf("named by the policy: %+v, %+v", got, r.plan())
	}
	if got := r.placeBy("web", "red", nil); got.Status != v1.StateCreated || !r.woken() {
		t.Errorf("%+v", got)
	}
	plan := r.plan()
	if !slices.Equal(plan.Attach, []string{prefix + "red"}) {
		t.Fatalf("plan %+v", plan)
	}
	r.write(m, plan)
	if entries := r.stored(m); len(entries) > 0 {
		t.Errorf("recorded before Azure has said so: %+v", entries)
	}
	r.done(assignment.Request{Attach: plan.Attach})
	if got := r.stateOf("web", "red"); got.Status != v1.StateAssigned {
		t.Errorf("%+v", got)
	}
	if err := m.save(t.Context(), r.group, r.st); err != nil {
		t.Fatal(err)
	}
	entries := r.stored(m)
	if !entries[resource(t, "red").Key()].Foreign {
		t.Fatalf("%+v", entries)
	}
	r.st.ledger.entries = entries // a new leader
	r.read(listing("red"))
	r.wantIdle("verified twice")
	r.groups.Leave(podNamed("web"))
	r.groups.Leave(podNamed("named"))
	r.now = r.now.Add(time.Hour)
	if plan := r.plan(); !plan.Idle() || len(plan.Forget) > 0 {
		t.Errorf("takes away what another writer attached: %+v", plan)
	}
	// Its writer takes it away; a pod needs it: podid attaches it, and it is podid's.
	r.read(compute.Identities{})
	r.placeBy("web", "red", nil)
	r.write(m, r.plan())
	if entry := r.st.ledger.entries[resource(t, "red").Key()]; entry.Foreign {
		t.Errorf("%+v", entry)
	}
}

// What is Assigned when MIC starts stays so without an update of its own, goes along with the next
// one, and is refused if Azure refuses it then.
func TestForeignPatient(t *testing.T) {
	r := newRig(t)
	r.read(listing("red"))
	assigned := func(n *assignment.Need) { n.Assigned = true }
	got := r.placeBy("web", "red", assigned)
	if got.Reason != "" || got.Status != v1.StateCreated || r.woken() || !r.plan().Idle() {
		t.Errorf("%+v, %+v", got, r.plan())
	}
	r.st.trouble.group = assignment.State{Status: v1.StateCreated, Reason: reason.GroupForbidden.Name()}
	if got := r.placeBy("web", "red", assigned); !got.KeepAssigned {
		t.Errorf("loses what works because the group cannot be updated: %+v", got)
	}
	r.st.trouble.group = assignment.State{}
	r.place("late", "blue")
	plan := r.plan()
	if !slices.Equal(plan.Attach, []string{prefix + "blue", prefix + "red"}) {
		t.Fatalf("plan %+v", plan)
	}
	m := r.controllerOf(new(bool))
	m.metrics = noMeter{}
	m.quarantine(t.Context(), &pass{group: r.group, state: r.st}, []string{prefix + "red"}, errors.New("no right"))
	if got := r.stateOf("web", "red"); got.Reason != reason.IdentityRefused.Name() {
		t.Errorf("refused: %+v", got)
	}
}

// noMeter measures nothing.
type noMeter struct{ Metrics }

func (noMeter) Quarantined(string, string, string) {}

// One pod may need an identity by two AzureIdentity objects, of which one is wrong.
func TestTwoObjectsOfOnePod(t *testing.T) {
	r := newRig(t, "red")
	r.read(listing("red"))
	right, wrong := needFor(t, "red"), needFor(t, "red")
	right.Identity.Name, wrong.Identity.Name, wrong.ClientID = "right", "wrong", wrongClient
	r.groups.Place(podNamed("web"), r.group, []assignment.Need{right, wrong})
	r.st.markUnknown(r.st.openMismatches())
	got := r.groups.Place(podNamed("web"), r.group, []assignment.Need{right, wrong})
	if got[0].Status != v1.StateAssigned || got[1].Reason != reason.ClientIDMismatch.Name() || !r.plan().Idle() {
		t.Errorf("%+v, %+v", got, r.plan())
	}
	r.groups.Place(podNamed("web"), r.group, []assignment.Need{wrong})
	if plan := r.plan(); len(plan.Detach) != 1 {
		t.Errorf("the right one is gone: %+v", plan)
	}
}
