// From what a pod is granted to its AzureAssignedIdentity objects.

package assignment

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// Pod is what the plan for one pod starts from.
type Pod struct {
	Namespace, Name, NodeName string

	// Grants are the identities the pod may use; none when it is gone or finished.
	Grants []identity.Grant
	// Observed are all assigned identities that name this pod, also those that
	// are being deleted. They are not changed.
	Observed []*v1.AzureAssignedIdentity
	// Rules say where the objects live.
	Rules identity.Rules
	// Progress is how far a managed identity has come on its way to the pod's
	// node. It is not asked about others: nothing of those goes to the node.
	Progress func(*v1.AzureIdentity) Progress
	// Now is the time of the plan, to the second.
	Now metav1.Time
	// Taken reports whether the object of that namespace and name belongs to
	// another pod or another identity.
	Taken func(namespace, name string) bool
}

// PodPlan says what to do to a pod's assigned identities, in this order. The
// objects to create and update are complete; those to delete are the observed
// ones.
type PodPlan struct {
	Create []*v1.AzureAssignedIdentity
	Update []*v1.AzureAssignedIdentity
	Delete []*v1.AzureAssignedIdentity
}

// Empty reports that there is nothing to write.
func (p PodPlan) Empty() bool { return len(p.Create)+len(p.Update)+len(p.Delete) == 0 }

// ForPod compares a pod's grants with its assigned identities.
//
// An object that is being deleted counts as gone, and is in Delete so that its
// finalizer is let go of. Of several objects for one identity the best placed
// stays. An object made by v1.8.17 is kept where it says the same; only its
// finalizer goes. An identity of which nobody knows yet whether the node has it
// gets no new object, and keeps what it has: whoever finds out makes the plan be made again.
func ForPod(p Pod) PodPlan {
	var plan PodPlan
	kept := map[*v1.AzureAssignedIdentity]bool{}
	for _, grant := range p.Grants {
		have := p.find(grant.Identity)
		if have == nil {
			if progress := p.progress(grant.Identity); !progress.Unknown {
				state := progress.State
				if before := p.predecessor(grant); before != nil {
					state = next(stateOf(before.Status), progress, true)
				}
				plan.Create = append(plan.Create, p.create(grant, state))
				continue
			}
			p.spare(grant.Identity, kept)
			continue
		}
		kept[have] = true
		if want := p.update(have, grant); want != nil {
			plan.Update = append(plan.Update, want)
		}
	}
	for _, have := range p.Observed {
		if !kept[have] {
			plan.Delete = append(plan.Delete, have)
		}
	}
	return plan
}

// find returns the observed object of the identity, nil when there is none to
// keep. v1.8.17's own name is preferred, so that all generations agree.
func (p Pod) find(id *v1.AzureIdentity) *v1.AzureAssignedIdentity {
	namespace := Namespace(p.Rules, id)
	var candidates []*v1.AzureAssignedIdentity
	for _, have := range p.Observed {
		if have.DeletionTimestamp.IsZero() && have.Namespace == namespace && refersTo(have, id) {
			candidates = append(candidates, have)
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	return slices.MinFunc(candidates, func(a, b *v1.AzureAssignedIdentity) int {
		return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	})
}

// spare keeps, until there is a new object, those of the identity that live in
// another namespace: there they were before the rules changed, as for a cluster that
// comes from v1.8.17, and the pod's tokens depend on them.
func (p Pod) spare(id *v1.AzureIdentity, kept map[*v1.AzureAssignedIdentity]bool) {
	for _, have := range p.Observed {
		if have.DeletionTimestamp.IsZero() && refersTo(have, id) {
			kept[have] = true
		}
	}
}

// SaysAssigned reports whether the object of a grant exists and says Assigned.
func (p Pod) SaysAssigned(grant identity.Grant) bool {
	have := p.predecessor(grant)
	return have != nil && have.Status.Status == v1.StateAssigned
}

// predecessor returns an object, in any namespace, that stands for the grant as it is now; nil when
// there is none. It lives in another namespace where the rules were others before.
func (p Pod) predecessor(grant identity.Grant) *v1.AzureAssignedIdentity {
	for _, have := range p.Observed {
		if have.DeletionTimestamp.IsZero() && refersTo(have, grant.Identity) && p.says(have, grant) {
			return have
		}
	}
	return nil
}

// refersTo reports whether the object stands for that identity.
func refersTo(assigned *v1.AzureAssignedIdentity, id *v1.AzureIdentity) bool {
	ref := assigned.Spec.AzureIdentityRef
	return ref != nil && ref.Name == id.Name && ref.Namespace == id.Namespace
}

// create is the new object for a grant.
func (p Pod) create(grant identity.Grant, state State) *v1.AzureAssignedIdentity {
	namespace := Namespace(p.Rules, grant.Identity)
	name := Name(p.Namespace, p.Name, grant.Identity, func(name string) bool { return p.Taken(namespace, name) })
	assigned := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.fill(assigned, grant)
	state.write(&assigned.Status, p.Now)
	return assigned
}

// fill writes everything that says what the object stands for.
func (p Pod) fill(assigned *v1.AzureAssignedIdentity, grant identity.Grant) {
	p.label(assigned)
	assigned.Spec.AzureIdentityRef = embedIdentity(grant.Identity)
	assigned.Spec.AzureBindingRef = embedBinding(grant.Binding)
	assigned.Spec.Pod, assigned.Spec.PodNamespace, assigned.Spec.NodeName = p.Name, p.Namespace, p.NodeName
	assigned.Status.AvailableReplicas = 1 // as v1.8.17 does
}

func (p Pod) labels() map[string]string {
	return map[string]string{
		v1.NodeNameLabel:     label(p.NodeName),
		v1.PodNameLabel:      label(p.Name),
		v1.PodNamespaceLabel: label(p.Namespace),
	}
}

// progress is how far an identity has come. Only a managed identity has to get
// to the node; the others' tokens come from Entra ID.
func (p Pod) progress(id *v1.AzureIdentity) Progress {
	if id.Spec.Type != v1.UserAssignedMSI {
		return Progress{State: State{Status: v1.StateAssigned}}
	}
	return p.Progress(id)
}

// update returns the object as it should be, nil when it is that already.
func (p Pod) update(have *v1.AzureAssignedIdentity, grant identity.Grant) *v1.AzureAssignedIdentity {
	says := p.says(have, grant)
	state := next(stateOf(have.Status), p.progress(grant.Identity), says)
	held := slices.Contains(have.Finalizers, v1.Finalizer)
	if says && !held && p.labelled(have) && state == stateOf(have.Status) {
		return nil
	}
	want := have.DeepCopy()
	if says {
		p.label(want)
	} else {
		p.fill(want, grant)
	}
	want.Finalizers = slices.DeleteFunc(want.Finalizers, func(f string) bool { return f == v1.Finalizer })
	state.write(&want.Status, p.Now)
	return want
}

// says reports whether the object stands for this node, identity and binding as
// they are now.
func (p Pod) says(have *v1.AzureAssignedIdentity, grant identity.Grant) bool {
	return have.Spec.NodeName == p.NodeName &&
		sameIdentity(have.Spec.AzureIdentityRef, grant.Identity) &&
		sameBinding(have.Spec.AzureBindingRef, grant.Binding)
}

// labelled reports whether the object can be found by pod and node. Objects of
// older releases of v1 lack some of the labels.
func (p Pod) labelled(have *v1.AzureAssignedIdentity) bool {
	for k, v := range p.labels() {
		if got, ok := have.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (p Pod) label(assigned *v1.AzureAssignedIdentity) {
	if assigned.Labels == nil {
		assigned.Labels = map[string]string{}
	}
	maps.Copy(assigned.Labels, p.labels())
}

// sameIdentity compares what matters: which object it is and what it says.
func sameIdentity(ref *v1.AzureIdentityCopy, id *v1.AzureIdentity) bool {
	return ref != nil && ref.Name == id.Name && ref.Namespace == id.Namespace && ref.UID == id.UID &&
		ref.Annotations[v1.BehaviorAnnotation] == id.Annotations[v1.BehaviorAnnotation] &&
		equality.Semantic.DeepEqual(ref.Spec, id.Spec)
}

// sameBinding is sameIdentity for bindings.
func sameBinding(ref *v1.AzureIdentityBindingCopy, b *v1.AzureIdentityBinding) bool {
	return ref != nil && ref.Name == b.Name && ref.Namespace == b.Namespace && ref.UID == b.UID &&
		equality.Semantic.DeepEqual(ref.Spec, b.Spec)
}

// embedIdentity is the identity as it goes into an assigned identity. An
// embedded object must say its kind.
func embedIdentity(id *v1.AzureIdentity) *v1.AzureIdentityCopy {
	out := &v1.AzureIdentityCopy{
		APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentity",
		ObjectMeta: embedMeta(id.ObjectMeta),
	}
	id.Spec.DeepCopyInto(&out.Spec)
	return out
}

func embedBinding(b *v1.AzureIdentityBinding) *v1.AzureIdentityBindingCopy {
	out := &v1.AzureIdentityBindingCopy{
		APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentityBinding",
		ObjectMeta: embedMeta(b.ObjectMeta),
	}
	b.Spec.DeepCopyInto(&out.Spec)
	return out
}

// embedMeta keeps what identifies an object and its version. All else belongs to the original
// alone: a tenant can fill it with a megabyte, of which each pod would get a copy.
func embedMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Generation: m.Generation,
		Annotations: identity.CopiedAnnotations(m.Annotations),
	}
}
