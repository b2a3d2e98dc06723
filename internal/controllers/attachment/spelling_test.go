// Resource groups that differ in letters outside ASCII.

package attachment

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
)

func inGroup(t *testing.T, group string) identity.ResourceID {
	t.Helper()
	id, err := identity.ParseResourceID(strings.Replace(prefix, "/rg/", "/"+group+"/", 1) + "red")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// An AzureIdentity whose resource group only looks like another's gets nothing of it, and does not
// harm it.
func TestImitatedGroup(t *testing.T) {
	victim := inGroup(t, "bank")
	if id, err := identity.ParseResourceID(strings.Replace(victim.String(), "bank", "ban\u212a", 1)); err == nil {
		t.Errorf("%+q is accepted, with the key %+q", id, id.Key())
	}
	for _, imitation := range []string{strings.Replace(victim.String(), "bank", "ban\u212a", 1), strings.ToUpper(victim.String())} {
		if same := ledger.Key(imitation) == victim.Key(); same != (imitation == strings.ToUpper(victim.String())) {
			t.Errorf("%+q has the key of %q: %v", imitation, victim, same)
		}
		if has := (compute.Identities{UserAssigned: []string{imitation}}).Has(victim.String()); has != (ledger.Key(imitation) == victim.Key()) {
			t.Errorf("a group that has %+q has %q: %v", imitation, victim, has)
		}
	}
}

// Azure reports a resource group in the other case. That changes nothing, and an identity stays
// while another namespace needs it in another spelling.
func TestOtherSpelling(t *testing.T) {
	upper, lower := inGroup(t, "\u00c9T\u00c9"), inGroup(t, "\u00e9t\u00e9")
	needs := func(id identity.ResourceID, namespace string) assignment.Need {
		return assignment.Need{ID: id, Identity: types.NamespacedName{Namespace: namespace, Name: "red"}}
	}
	azure := compute.Identities{
		UserAssigned: []string{lower.String()}, ClientIDs: map[string]string{lower.String(): "client"},
		PrincipalIDs: map[string]string{lower.String(): "principal"},
	}
	r := newRig(t)
	r.groups.Place(podNamed("a"), r.group, []assignment.Need{needs(upper, "team")})
	first := r.plan()
	if diff := cmp.Diff([]string{upper.String()}, first.Attach); diff != "" {
		t.Fatalf("attach (-want +have):\n%s", diff)
	}
	r.st.ledger.entries[upper.Key()] = ledger.Entry{ResourceID: upper.String()}
	r.st.done(assignment.Request{Attach: first.Attach})
	for range 3 {
		r.read(azure)
		if plan := r.plan(); !plan.Idle() || len(plan.Forget) > 0 {
			t.Fatalf("Azure has it, in its spelling: %+v", plan)
		}
	}
	if entry := r.st.ledger.entries[upper.Key()]; entry.PrincipalID != "principal" {
		t.Errorf("entry %+v", entry)
	}
	// Another namespace spells it as Azure does.
	r.groups.Place(podNamed("b"), r.group, []assignment.Need{needs(lower, "other")})
	r.read(azure)
	r.wantIdle("both have it")
	// The first leaves: what the second needs stays.
	r.groups.Place(podNamed("a"), r.group, nil)
	if plan := r.plan(); !plan.Idle() || len(plan.Forget) > 0 {
		t.Errorf("the second still needs it: %+v", plan)
	}
	r.groups.Place(podNamed("b"), r.group, nil)
	r.now = r.now.Add(24 * time.Hour)
	r.plan()
	r.now = r.now.Add(24 * time.Hour)
	if plan := r.plan(); len(plan.Detach) != 1 {
		t.Errorf("no pod needs it any more: %+v", plan)
	}
}
