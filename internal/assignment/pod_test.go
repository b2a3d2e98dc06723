package assignment

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

const resource = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

func grant(namespace, name string) identity.Grant {
	return identity.Grant{
		Identity: &v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + name)},
			Spec:       v1.AzureIdentitySpec{ResourceID: resource + name},
		},
		Binding: &v1.AzureIdentityBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-binding", UID: types.UID("buid-" + name)},
			Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "app"},
		},
	}
}

func pod(grants ...identity.Grant) Pod {
	return Pod{
		Namespace: "team", Name: "web-0", NodeName: "node-1", Grants: grants,
		Rules:    identity.Rules{ForceNamespaced: true},
		Progress: func(*v1.AzureIdentity) Progress { return Progress{State: State{Status: v1.StateCreated}} },
		Now:      metav1.Unix(1000, 0),
		Taken:    func(string, string) bool { return false },
	}
}

// made is what ForPod creates for the grant.
func made(t *testing.T, p Pod, g identity.Grant) *v1.AzureAssignedIdentity {
	t.Helper()
	p.Grants, p.Observed = []identity.Grant{g}, nil
	plan := ForPod(p)
	if len(plan.Create) != 1 {
		t.Fatalf("creates %d objects", len(plan.Create))
	}
	return plan.Create[0]
}

func TestForPod(t *testing.T) {
	red := grant("team", "red")
	assigned := func(change func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
		a := made(t, pod(), red)
		a.Status.Status = v1.StateAssigned
		if change != nil {
			change(a)
		}
		return a
	}
	leaving := metav1.Now()
	with := func(p Progress) Pod {
		in := pod(red)
		in.Progress = func(*v1.AzureIdentity) Progress { return p }
		return in
	}
	there := Progress{State: State{Status: v1.StateAssigned}}
	bare := Progress{State: State{Status: v1.StateCreated, Reason: reason.NodeNotOnAzure.Name(), Message: "m"}}
	refused := Progress{State: State{Status: v1.StateCreated, Reason: reason.IdentityRefused.Name(), Message: "m"}}
	unknown := Progress{Unknown: true}

	for _, c := range []struct {
		name                   string
		pod                    Pod
		observed               []*v1.AzureAssignedIdentity
		create, update, delete int
		state                  string // of what is created or updated
		reason                 string
	}{
		{name: "nothing"},
		{name: "new", pod: pod(red), create: 1, state: v1.StateCreated},
		{name: "new, group has it", pod: with(there), create: 1, state: v1.StateAssigned},
		{name: "new, node not on Azure", pod: with(bare), create: 1, state: v1.StateCreated, reason: reason.NodeNotOnAzure.Name()},
		{name: "new, nobody knows", pod: with(unknown)},
		{name: "refused", pod: with(refused), create: 1, state: v1.StateCreated, reason: reason.IdentityRefused.Name()},
		{name: "refused later", pod: with(refused), observed: []*v1.AzureAssignedIdentity{assigned(nil)}, update: 1, state: v1.StateCreated, reason: reason.IdentityRefused.Name()},
		{name: "refused no more", pod: with(there), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) {
			refused.write(&a.Status, metav1.Unix(1, 0))
		})}, update: 1, state: v1.StateAssigned},
		{name: "nobody knows", pod: with(unknown), observed: []*v1.AzureAssignedIdentity{assigned(nil)}},
		{name: "nobody knows, other node", pod: with(unknown), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Spec.NodeName = "node-0" })}, update: 1, state: v1.StateCreated},
		{name: "v1.8.17: finalizer", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Finalizers = []string{v1.Finalizer} })}, update: 1, state: v1.StateAssigned},
		{name: "others' finalizer", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Finalizers = []string{"x/y"} })}},
		{name: "there", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(nil)}},
		{name: "not granted any more", pod: pod(), observed: []*v1.AzureAssignedIdentity{assigned(nil)}, delete: 1},
		{name: "being deleted", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.DeletionTimestamp = &leaving })}, create: 1, delete: 1, state: v1.StateCreated},
		{name: "another node", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Spec.NodeName = "node-0" })}, update: 1, state: v1.StateCreated},
		{name: "another resource", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec.ResourceID = resource + "old" })}, update: 1, state: v1.StateCreated},
		{name: "identity made anew", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.UID = "old" })}, update: 1, state: v1.StateCreated},
		{name: "v1.8.17: labels missing", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Labels = nil })}, update: 1, state: v1.StateAssigned},
		{name: "v1.8.17: Unassigned", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Status.Status = v1.StateUnassigned })}, update: 1, state: v1.StateCreated},
		{name: "v1.8.17: no state", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Status.Status = "" })}, update: 1, state: v1.StateCreated},
		{name: "only versions differ", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.ResourceVersion = "1" })}},
		{name: "in quarantine stays so", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) {
			a.Status = v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: "IdentityRefused"}
		})}},
		{name: "node came to Azure", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) {
			a.Status = v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: reason.NodeNotOnAzure.Name()}
		})}, update: 1, state: v1.StateCreated},
		{name: "of another namespace rule", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Namespace = "default" })}, create: 1, delete: 1, state: v1.StateAssigned},
		{name: "of another namespace rule, nobody knows", pod: with(unknown), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Namespace = "default" })}},
		{name: "two for one identity", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(nil), assigned(func(a *v1.AzureAssignedIdentity) { a.Name += "-longer" })}, delete: 1},
		{name: "no references", pod: pod(red), observed: []*v1.AzureAssignedIdentity{assigned(func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef = nil })}, create: 1, delete: 1, state: v1.StateCreated},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.pod.Observed = c.observed
			plan := ForPod(c.pod)
			got := []int{len(plan.Create), len(plan.Update), len(plan.Delete)}
			if diff := cmp.Diff([]int{c.create, c.update, c.delete}, got); diff != "" {
				t.Fatalf("create, update, delete (-want +got):\n%s", diff)
			}
			for _, a := range append(plan.Create, plan.Update...) {
				if slices.Contains(a.Finalizers, v1.Finalizer) {
					t.Errorf("finalizers %v", a.Finalizers)
				}
				if a.Status.Status != c.state || a.Status.Reason != c.reason || a.Spec.NodeName != "node-1" {
					t.Errorf("state %q reason %q on %s", a.Status.Status, a.Status.Reason, a.Spec.NodeName)
				}
			}
		})
	}
}

func TestCondition(t *testing.T) {
	var status v1.AzureAssignedIdentityStatus
	for _, c := range []struct {
		state State
		at    metav1.Time
		want  []metav1.Condition
	}{
		{State{Status: v1.StateCreated}, metav1.Unix(0, 0), nil},
		{State{v1.StateCreated, reason.IdentityRefused.Name(), "m"}, metav1.Unix(1, 0), []metav1.Condition{{Type: v1.ConditionAssigned, Status: metav1.ConditionFalse, Reason: reason.IdentityRefused.Name(), Message: "m", LastTransitionTime: metav1.Unix(1, 0)}}},
		{State{v1.StateCreated, reason.IdentityForbidden.Name(), "n"}, metav1.Unix(2, 0), []metav1.Condition{{Type: v1.ConditionAssigned, Status: metav1.ConditionFalse, Reason: reason.IdentityForbidden.Name(), Message: "n", LastTransitionTime: metav1.Unix(1, 0)}}},
		{State{Status: v1.StateAssigned}, metav1.Unix(3, 0), []metav1.Condition{{Type: v1.ConditionAssigned, Status: metav1.ConditionTrue, Reason: v1.StateAssigned, LastTransitionTime: metav1.Unix(3, 0)}}},
	} {
		c.state.write(&status, c.at)
		if diff := cmp.Diff(c.want, status.Conditions, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("conditions of %+v (-want +got):\n%s", c.state, diff)
		}
	}
}

func TestOtherTypes(t *testing.T) {
	g := grant("team", "sp")
	g.Identity.Spec = v1.AzureIdentitySpec{Type: v1.ServicePrincipal}
	p := pod(g)
	p.Progress = nil // must not be called: the node does not matter
	if got := ForPod(p).Create[0].Status.Status; got != v1.StateAssigned {
		t.Errorf("state %s", got)
	}
}

func TestName(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, c := range []struct {
		name, podNamespace, pod, identity string
		taken                             bool
		want                              string // "" for a hashed one
	}{
		{name: "plain", podNamespace: "team", pod: "web-0", identity: "red", want: "web-0-team-red"},
		{name: "capitals", podNamespace: "team", pod: "web", identity: "Red", want: "web-team-red"},
		{name: "taken", podNamespace: "team", pod: "web-0", identity: "red", taken: true},
		{name: "too long", podNamespace: long, pod: long, identity: "red"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: c.identity}}
			got := Name(c.podNamespace, c.pod, id, func(string) bool { return c.taken })
			if c.want != "" && got != c.want {
				t.Errorf("name %q, want %q", got, c.want)
			}
			if len(got) > maxName || got != strings.ToLower(got) {
				t.Errorf("name %q of %d characters", got, len(got))
			}
			again := Name(c.podNamespace, c.pod, id, func(string) bool { return c.taken })
			if got != again {
				t.Errorf("not stable: %q and %q", got, again)
			}
			id.Namespace = "other"
			other := Name(c.podNamespace, c.pod, id, func(string) bool { return c.taken })
			if c.want == "" && got == other {
				t.Errorf("two identities, one name %q", got)
			}
		})
	}
}

func TestLabel(t *testing.T) {
	long := strings.Repeat("a", 52) + "-" + strings.Repeat("b", 40)
	if got := label("web-0"); got != "web-0" {
		t.Errorf("short value became %q", got)
	}
	if got := label(long); len(got) > 63 || got == label(long+"c") || got != label(long) {
		t.Errorf("long value became %q", got)
	}
}

// TestEmbedded: a copy carries what identifies the object, and nothing that a tenant can fill up.
func TestEmbedded(t *testing.T) {
	g := grant("team", "red")
	meta := metav1.ObjectMeta{
		Labels:          map[string]string{"a": "b"},
		Annotations:     map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}", v1.BehaviorAnnotation: "namespaced", v1.AllowedNamespacesAnnotation: "*"},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		Finalizers:      []string{"example.com/hold"},
		OwnerReferences: []metav1.OwnerReference{{Name: "o"}},
		UID:             "u", Generation: 3, ResourceVersion: "7", CreationTimestamp: metav1.Now(),
	}
	for _, o := range []metav1.Object{g.Identity, g.Binding} {
		meta.Namespace, meta.Name = o.GetNamespace(), o.GetName()
		switch o := o.(type) {
		case *v1.AzureIdentity:
			o.ObjectMeta = meta
		case *v1.AzureIdentityBinding:
			o.ObjectMeta = meta
		}
	}
	spec := made(t, pod(), g).Spec
	id, binding := spec.AzureIdentityRef, spec.AzureBindingRef
	if id.Kind != "AzureIdentity" || id.APIVersion != "aadpodidentity.k8s.io/v1" || binding.Kind != "AzureIdentityBinding" || binding.APIVersion != id.APIVersion {
		t.Errorf("kinds %s %s, %s %s", id.APIVersion, id.Kind, binding.APIVersion, binding.Kind)
	}
	for _, got := range []struct{ got, original metav1.ObjectMeta }{{id.ObjectMeta, g.Identity.ObjectMeta}, {binding.ObjectMeta, g.Binding.ObjectMeta}} {
		want := metav1.ObjectMeta{
			Namespace: got.original.Namespace, Name: got.original.Name, UID: "u", Generation: 3,
			Annotations: map[string]string{v1.BehaviorAnnotation: "namespaced"},
		}
		if diff := cmp.Diff(want, got.got); diff != "" {
			t.Error(diff)
		}
	}
}
