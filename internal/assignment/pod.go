// The plan for a pod: from its grants to its AzureAssignedIdentity objects.

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

// Pod is the input of the plan for one pod.
type Pod struct {
	Namespace, Name, NodeName string

	// Grants are the identities that the pod may use. It is empty when the pod is gone or finished.
	Grants []identity.Grant
	// Observed are all assigned identities that name this pod, including those being deleted. ForPod
	// does not change them.
	Observed []*v1.AzureAssignedIdentity
	// Rules decide in which namespace the objects live.
	Rules identity.Rules
	// Progress returns how far a managed identity has come on its way to the pod's node. It is not
	// called for other types, which are not assigned to nodes.
	Progress func(*v1.AzureIdentity) Progress
	// Now is the time of the plan, to the second.
	Now metav1.Time
	// Taken reports whether the object of that namespace and name belongs to
	// another pod or another identity.
	Taken func(namespace, name string) bool
}

// PodPlan lists the writes to a pod's assigned identities, in this order. The objects to create and
// update are complete. Those to delete are the observed ones.
type PodPlan struct {
	Create []*v1.AzureAssignedIdentity
	Update []*v1.AzureAssignedIdentity
	Delete []*v1.AzureAssignedIdentity
}

// Empty reports whether there is nothing to write.
func (p PodPlan) Empty() bool { return len(p.Create)+len(p.Update)+len(p.Delete) == 0 }

// ForPod compares a pod's grants with its assigned identities.
//
//   - An object that is being deleted counts as gone. It is in Delete so that its finalizer is
//     removed.
//   - Of several objects for one identity, the one with the preferred name and namespace stays.
//   - An object made by v1.8.17 is kept if its content is the same; only its finalizer is removed.
//   - An identity whose state on the node is unknown gets no new object and keeps the one it has.
//     The plan is made again once the state is known.
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

// find returns the observed object of the identity, nil when there is none to keep. It prefers the
// name that v1.8.17 uses, so that all releases agree.
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

// spare keeps the identity's objects in another namespace until the new object exists. They are
// there because the rules changed, as in a cluster migrated from v1.8.17, and the pod's tokens
// depend on them.
func (p Pod) spare(id *v1.AzureIdentity, kept map[*v1.AzureAssignedIdentity]bool) {
	for _, have := range p.Observed {
		if have.DeletionTimestamp.IsZero() && refersTo(have, id) {
			kept[have] = true
		}
	}
}

// SaysAssigned reports whether the object of a grant exists and is Assigned.
func (p Pod) SaysAssigned(grant identity.Grant) bool {
	have := p.predecessor(grant)
	return have != nil && have.Status.Status == v1.StateAssigned
}

// predecessor returns an object, in any namespace, that represents the grant in its current form,
// nil when there is none. It is in another namespace if the rules were different before.
func (p Pod) predecessor(grant identity.Grant) *v1.AzureAssignedIdentity {
	for _, have := range p.Observed {
		if have.DeletionTimestamp.IsZero() && refersTo(have, grant.Identity) && p.says(have, grant) {
			return have
		}
	}
	return nil
}

// refersTo reports whether the object represents that identity.
func refersTo(assigned *v1.AzureAssignedIdentity, id *v1.AzureIdentity) bool {
	ref := assigned.Spec.AzureIdentityRef
	return ref != nil && ref.Name == id.Name && ref.Namespace == id.Namespace
}

// create returns the new object for a grant.
func (p Pod) create(grant identity.Grant, state State) *v1.AzureAssignedIdentity {
	namespace := Namespace(p.Rules, grant.Identity)
	name := Name(p.Namespace, p.Name, grant.Identity, func(name string) bool { return p.Taken(namespace, name) })
	assigned := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.fill(assigned, grant)
	state.write(&assigned.Status, p.Now)
	return assigned
}

// fill sets the fields that describe what the object represents.
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

// progress returns how far an identity has come. Only a managed identity is assigned to the node.
// The tokens of other types come from Entra ID.
func (p Pod) progress(id *v1.AzureIdentity) Progress {
	if id.Spec.Type != v1.UserAssignedMSI {
		return Progress{State: State{Status: v1.StateAssigned}}
	}
	return p.Progress(id)
}

// update returns the object as it should be, nil when it is already up to date.
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

// says reports whether the object represents the node, identity and binding in their current form.
func (p Pod) says(have *v1.AzureAssignedIdentity, grant identity.Grant) bool {
	return have.Spec.NodeName == p.NodeName &&
		sameIdentity(have.Spec.AzureIdentityRef, grant.Identity) &&
		sameBinding(have.Spec.AzureBindingRef, grant.Binding)
}

// Reports whether the object can be found by pod and node. Objects of older releases of v1 lack
// some of the labels.
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

// sameIdentity reports whether the copy refers to that very object and matches its relevant fields.
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

// embedIdentity returns the copy of the identity for an assigned identity. An embedded object must
// have a kind.
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

// embedMeta keeps the fields that identify an object and its version. The rest stays with the
// original: a tenant can fill it with a megabyte, which each pod's object would copy.
func embedMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Generation: m.Generation,
		Annotations: identity.CopiedAnnotations(m.Annotations),
	}
}
