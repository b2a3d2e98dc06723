package attachment

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
)

func TestSeparateTenants(t *testing.T) {
	r := newRig(t)
	for i, name := range []string{"bad1", "bad2", "bad3", "good"} {
		n := needFor(t, name)
		n.Identity = types.NamespacedName{Namespace: name[:3], Name: name}
		r.groups.Place(podNamed(fmt.Sprint(i)), r.group, []assignment.Need{n})
	}
	bad1, bad2, bad3, good, old := prefix+"bad1", prefix+"bad2", prefix+"bad3", prefix+"good", prefix+"old"
	p := &pass{group: r.group, state: r.st}
	var blamed tenants
	rest := []assignment.Request{{Attach: []string{bad2, bad3, good}, Detach: []string{old}}}
	if diff := cmp.Diff(rest, blamed.separate(p, rest, []string{bad1})); diff != "" {
		t.Errorf("one bad identity costs the others an update (-want +got):\n%s", diff)
	}
	rest = []assignment.Request{{Attach: []string{bad3, good}, Detach: []string{old}}}
	want := []assignment.Request{{Attach: []string{good}, Detach: []string{old}}, {Attach: []string{bad3}}}
	if diff := cmp.Diff(want, blamed.separate(p, rest, []string{bad2}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("others wait for a tenant's bad identities (-want +got):\n%s", diff)
	}
	if got := blamed.separate(p, nil, []string{bad3}); len(got) > 0 {
		t.Errorf("unexpected requests %v", got)
	}
}
