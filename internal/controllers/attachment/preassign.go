// Pre-assignments: identities that node groups get before any pod needs them.

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

// MaxPreassigned is how many identities a node group has at most before any pod needs them. At some
// 400 bytes an entry, they take a fraction of the ledger's capacity.
const MaxPreassigned = 200

// preassignment is what the annotation of an AzureIdentity asks for.
type preassignment struct {
	id       identity.ResourceID
	groups   string // the annotation's value
	uid      types.UID
	clientID string // of the object, in lower case
}

// preassignedSet are the identities that a group is to have without any pod.
type preassignedSet struct {
	set assignment.Set
	// names are the AzureIdentity objects that ask for them, by canonical resource ID.
	names map[string][]types.NamespacedName
	// leftOut are those beyond MaxPreassigned.
	leftOut []types.NamespacedName
	// generation of all pre-assignments.
	generation uint64
}

// preassignmentOf reads the annotation. If it has no effect, ok is false, and why is the reason
// unless there is no annotation.
func preassignmentOf(id *v1.AzureIdentity) (asked preassignment, why string, ok bool) {
	groups := ascii.Loose(strings.TrimSpace(id.Annotations[v1.PreassignAnnotation]))
	if groups == "" || !id.DeletionTimestamp.IsZero() {
		return preassignment{}, "", false
	}
	if id.Spec.Type != v1.UserAssignedMSI {
		return preassignment{}, "only managed identities (spec.type 0) are assigned to nodes: remove the annotation", false
	}
	if refusal := identity.Check(id); refusal != nil {
		return preassignment{}, refusal.Message, false
	}
	parsed, err := identity.ParseResourceID(id.Spec.ResourceID)
	if err != nil {
		return preassignment{}, err.Error(), false
	}
	return preassignment{parsed, groups, id.UID, canonical(id.Spec.ClientID)}, "", true
}

// includes reports whether the annotation names the group.
func (p preassignment) includes(group compute.Group) bool {
	if p.groups == v1.PreassignAll {
		return true
	}
	for name := range strings.SplitSeq(p.groups, ",") {
		switch strings.TrimSpace(name) {
		case group.Name, group.ResourceGroup + "/" + group.Name, ascii.Loose(group.ResourceID()):
			return true
		}
	}
	return false
}

// Preassign records what an AzureIdentity asks for, and reports whether that has changed. A nil
// identity is one that was deleted.
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
		g.generation++
	}
	return changed
}

// preassignedTo returns the identities that a group is to have without any pod. If they are too
// many, the namespaces take turns.
func (g *Groups) preassignedTo(group compute.Group) preassignedSet {
	g.mu.Lock()
	defer g.mu.Unlock()
	extra := preassignedSet{set: assignment.Set{}, names: map[string][]types.NamespacedName{}, generation: g.generation}
	for name, p := range g.preassigned {
		if p.includes(group) {
			extra.set[p.id.Key()] = p.id.String()
			extra.names[p.id.Key()] = append(extra.names[p.id.Key()], name)
		}
	}
	if len(extra.set) > MaxPreassigned {
		extra.limit(MaxPreassigned)
	}
	return extra
}

// limit leaves out all but n of the identities.
func (e *preassignedSet) limit(n int) {
	keys := make([]string, 0, len(e.set))
	for key := range e.set {
		keys = append(keys, key)
	}
	set := assignment.Set{}
	for _, key := range assignment.Share(keys, func(key string) []string { return namespaces(e.names[key]) }, n) {
		set[key] = e.set[key]
	}
	for _, key := range keys {
		if !set.Has(key) {
			e.leftOut = append(e.leftOut, e.names[key]...)
			delete(e.names, key)
		}
	}
	e.set = set
}

// newGeneration reports whether the pre-assignments have changed since the last call.
func (st *state) newGeneration(generation uint64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	before := st.demand.generation
	st.demand.generation = generation
	return before != generation
}

// reportLeftOut notifies the owners of identities that are too many for a group, once per change.
func (c *Controller) reportLeftOut(ctx context.Context, p *pass) {
	if !p.state.newGeneration(p.extra.generation) || len(p.extra.leftOut) == 0 {
		return
	}
	logr.FromContextOrDiscard(ctx).Info(
		"too many pre-assigned identities for the node group, the others are attached for their first pod",
		"preassigned", len(p.extra.set), "leftOut", len(p.extra.leftOut))
	// Without the group's name, so that an identity left out of many groups gets one Event.
	why := fmt.Sprintf("podid puts at most %d identities on a node group before a pod needs them, and there are more for "+
		"one that the annotation names: remove the annotation from those that can wait for their first pod, "+
		"or let it name fewer node groups", MaxPreassigned)
	for _, name := range p.extra.leftOut {
		if id := c.groups.preassigner(name); id != nil {
			c.refusePreassignment(id, why)
		}
	}
}

// preassigner returns the pre-assigned AzureIdentity of that name, as far as an Event needs it. It
// returns nil if there is none any more.
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

// preassign handles the annotation of an AzureIdentity, and notifies its owner if it has no effect.
// It reports whether anything has changed.
func (c *Controller) preassign(id *v1.AzureIdentity, deleted bool) (changed bool) {
	name := client.ObjectKeyFromObject(id)
	defer func() {
		if changed {
			c.groups.notifyIdentities(name)
		}
	}()
	if deleted {
		c.refusePreassignment(id, "")
		return c.groups.Preassign(name, nil)
	}
	_, why, ok := preassignmentOf(id)
	if ok && c.settings.MayPreassign != nil && !c.settings.MayPreassign(id.Namespace) {
		ok, why = false, fmt.Sprintf("identities of namespace %s may not be on a node group before a pod needs them: "+
			"remove the annotation, or have the namespace added to mic's --preassign-namespaces", id.Namespace)
	}
	if !ok {
		c.refusePreassignment(id, why)
		return c.groups.Preassign(name, nil)
	}
	if changed = c.groups.Preassign(name, id); changed {
		c.refusePreassignment(id, "")
	}
	return changed
}

// refusePreassignment reports why an annotation has no effect; "" withdraws that.
func (c *Controller) refusePreassignment(id *v1.AzureIdentity, why string) {
	c.events.PreassignmentRefused(id, why)
}

// Standing returns how far a pre-assigned identity is: what Azure refused it with, whether any of
// its node groups has it, and whether it is pre-assigned at all.
func (g *Groups) Standing(name types.NamespacedName) (refused []assignment.State, there, preassigned bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, preassigned := g.preassigned[name]
	if !preassigned {
		return nil, false, false
	}
	// As if named by the policy: that concerns pods, and there need not be any.
	r := requester{identity: name, clientID: p.clientID, named: true}
	for group, st := range g.states {
		if !p.includes(group) {
			continue
		}
		progress := with(st, func() assignment.Progress { return st.progress(p.id.Key(), r) })
		if progress.Status == v1.StateAssigned {
			there = true
		} else if assignment.AboutIdentity(progress.Reason) {
			refused = append(refused, progress.State)
		}
	}
	return refused, there, true
}
