// Identities that are put on node groups before any pod needs them.

package attachment

import (
	"context"
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

// MostPreassigned is how many identities a node group has at most before any pod
// needs them. Some 400 bytes an entry, they are a fraction of the ledger's room (see pages.go).
const MostPreassigned = 200

// preassignment is what the annotation of an AzureIdentity asks for.
type preassignment struct {
	id    identity.ResourceID
	names string // the annotation's value
	uid   types.UID
	// clientID is the object's, in lower case.
	clientID string
}

// extras are identities that a group is to have without any pod.
type extras struct {
	set assignment.Set
	// names are the AzureIdentity objects that say so, by canonical resource ID.
	names map[string][]types.NamespacedName
	// left are those for which there was no room, and edition tells one state of
	// all pre-assignments from another.
	left    []types.NamespacedName
	edition uint64
}

// preassignmentOf reads the annotation; false when there is none to follow, and
// why that is so, unless nothing is asked for.
func preassignmentOf(id *v1.AzureIdentity) (asked preassignment, why string, ok bool) {
	names := ascii.Loose(strings.TrimSpace(id.Annotations[v1.PreassignAnnotation]))
	if names == "" || !id.DeletionTimestamp.IsZero() {
		return preassignment{}, "", false
	}
	if id.Spec.Type != v1.UserAssignedMSI {
		return preassignment{}, "only managed identities (spec.type 0) come to nodes: take the annotation off", false
	}
	if refusal := identity.Check(id); refusal != nil {
		return preassignment{}, refusal.Message, false
	}
	parsed, err := identity.ParseResourceID(id.Spec.ResourceID)
	if err != nil {
		return preassignment{}, err.Error(), false
	}
	return preassignment{parsed, names, id.UID, canonical(id.Spec.ClientID)}, "", true
}

// covers tells whether the annotation names the group.
func (p preassignment) covers(group compute.Group) bool {
	if p.names == v1.PreassignAll {
		return true
	}
	for name := range strings.SplitSeq(p.names, ",") {
		switch strings.TrimSpace(name) {
		case group.Name, group.ResourceGroup + "/" + group.Name, ascii.Loose(group.ResourceID()):
			return true
		}
	}
	return false
}

// Preassign notes what an AzureIdentity asks for, and tells whether that differs
// from before. A nil identity is one that is gone.
func (g *Groups) Preassign(name types.NamespacedName, id *v1.AzureIdentity) (changed bool) {
	var now preassignment
	wanted := false
	if id != nil {
		now, _, wanted = preassignmentOf(id)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before, was := g.preassigned[name]
	if wanted {
		g.preassigned[name] = now
	} else {
		delete(g.preassigned, name)
	}
	if changed = was != wanted || before != now; changed {
		g.edition++
	}
	return changed
}

// preassignedTo are the identities that a group is to have without any pod. Where
// they are too many, the namespaces take turns.
func (g *Groups) preassignedTo(group compute.Group) extras {
	g.mu.Lock()
	defer g.mu.Unlock()
	extra := extras{set: assignment.Set{}, names: map[string][]types.NamespacedName{}, edition: g.edition}
	for name, p := range g.preassigned {
		if p.covers(group) {
			extra.set[p.id.Key()] = p.id.String()
			extra.names[p.id.Key()] = append(extra.names[p.id.Key()], name)
		}
	}
	if len(extra.set) > MostPreassigned {
		extra.cut(MostPreassigned)
	}
	return extra
}

// cut leaves that many of the identities.
func (e *extras) cut(most int) {
	keys := make([]string, 0, len(e.set))
	for key := range e.set {
		keys = append(keys, key)
	}
	set := assignment.Set{}
	for _, key := range assignment.Share(keys, func(key string) []string { return namespaces(e.names[key]) }, most) {
		set[key] = e.set[key]
	}
	for _, key := range keys {
		if !set.Has(key) {
			e.left = append(e.left, e.names[key]...)
			delete(e.names, key)
		}
	}
	e.set = set
}

// preassignmentsChanged tells whether the group has not been asked about since the pre-assignments
// last changed.
func (st *state) preassignmentsChanged(extra extras) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	before := st.edition
	st.edition = extra.edition
	return before != extra.edition
}

// leftOut tells the owners of identities that are too many for a group.
func (r *Reconciler) leftOut(ctx context.Context, p *pass) {
	if !p.state.preassignmentsChanged(p.extra) || len(p.extra.left) == 0 {
		return
	}
	logr.FromContextOrDiscard(ctx).Info("too many identities to be on the node group before any pod needs them, the others come with their first pod",
		"preassigned", len(p.extra.set), "leftOut", len(p.extra.left))
	// Not the group's name: whoever is left out of many hears it once.
	why := fmt.Sprintf("podid puts at most %d identities on a node group before a pod needs them, and there are more for one that the annotation names; "+
		"take the annotation off those that can wait for their first pod, or let it name fewer node groups", MostPreassigned)
	for _, name := range p.extra.left {
		if id := r.groups.preassigner(name); id != nil {
			r.refusePreassignment(id, why)
		}
	}
}

// preassigner is the pre-assigned AzureIdentity by that name, as far as an event
// needs it, nil when it is that no more.
func (g *Groups) preassigner(name types.NamespacedName) *v1.AzureIdentity {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.preassigned[name]
	if !ok {
		return nil
	}
	id := &v1.AzureIdentity{}
	id.Namespace, id.Name, id.UID = name.Namespace, name.Name, p.uid
	return id
}

// preassign follows the annotation of an AzureIdentity, and tells its owner when
// it is not followed. It tells whether anything changed.
func (r *Reconciler) preassign(id *v1.AzureIdentity, gone bool) (changed bool) {
	name := client.ObjectKeyFromObject(id)
	defer func() {
		if changed {
			r.look(name)
		}
	}()
	if gone {
		r.refusePreassignment(id, "")
		return r.groups.Preassign(name, nil)
	}
	_, why, ok := preassignmentOf(id)
	if ok && r.settings.MayPreassign != nil && !r.settings.MayPreassign(id.Namespace) {
		ok, why = false, fmt.Sprintf("identities of namespace %s may not be on a node group before a pod needs them: "+
			"take the annotation off, or let who runs podid add the namespace to mic's --preassign-namespaces", id.Namespace)
	}
	if !ok {
		r.refusePreassignment(id, why)
		return r.groups.Preassign(name, nil)
	}
	if changed = r.groups.Preassign(name, id); changed {
		r.refusePreassignment(id, "")
	}
	return changed
}

// refusePreassignment says why an annotation is not followed; "" takes it back.
func (r *Reconciler) refusePreassignment(id *v1.AzureIdentity, why string) {
	if r.events != nil {
		r.events.PreassignmentRefused(id, why)
	}
}

// look wakes who tells the owners of identities how those stand.
func (r *Reconciler) look(names ...types.NamespacedName) {
	if r.identities != nil && len(names) > 0 {
		r.identities.Look(names...)
	}
}

// Standing tells how a pre-assigned identity stands with the node groups that it
// is for: what Azure refused it with, whether any has it, and whether it is
// pre-assigned at all. Of others their assigned identities tell.
func (g *Groups) Standing(name types.NamespacedName) (refused []assignment.State, there, preassigned bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, preassigned := g.preassigned[name]
	if !preassigned {
		return nil, false, false
	}
	key := p.id.Key()
	for group, st := range g.states {
		if !p.covers(group) {
			continue
		}
		st.mu.Lock()
		// Pods need the identity by the policy; that it is there needs no pod.
		is := st.progress(key, user{identity: name, clientID: p.clientID, named: true})
		if is.Status == v1.StateAssigned {
			there = true
		} else if assignment.AboutIdentity(is.Reason) {
			refused = append(refused, is.State)
		}
		st.mu.Unlock()
	}
	return refused, there, true
}
