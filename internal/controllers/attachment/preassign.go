// Identities that are put on node groups before any pod needs them.

package attachment

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

// preassignment is what the annotation of an AzureIdentity asks for.
type preassignment struct {
	id    identity.ResourceID
	names string // the annotation's value
}

// preassignmentOf reads the annotation; false when there is none to follow.
func preassignmentOf(id *v1.AzureIdentity) (preassignment, bool) {
	names := strings.ToLower(strings.TrimSpace(id.Annotations[v1.PreassignAnnotation]))
	if names == "" || id.Spec.Type != v1.UserAssignedMSI || !id.DeletionTimestamp.IsZero() || identity.Check(id) != nil {
		return preassignment{}, false
	}
	parsed, err := identity.ParseResourceID(id.Spec.ResourceID)
	return preassignment{parsed, names}, err == nil
}

// covers tells whether the annotation names the group.
func (p preassignment) covers(group compute.Group) bool {
	if p.names == v1.PreassignAll {
		return true
	}
	for name := range strings.SplitSeq(p.names, ",") {
		switch strings.TrimSpace(name) {
		case group.Name, group.ResourceGroup + "/" + group.Name, strings.ToLower(group.ResourceID()):
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
		now, wanted = preassignmentOf(id)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before, was := g.preassigned[name]
	if !wanted {
		delete(g.preassigned, name)
		return was
	}
	g.preassigned[name] = now
	return !was || before != now
}

// preassignedTo are the identities that a group is to have without any pod, and
// the AzureIdentity objects that say so.
func (g *Groups) preassignedTo(group compute.Group) (assignment.Set, map[string][]types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	set, names := assignment.Set{}, map[string][]types.NamespacedName{}
	for name, p := range g.preassigned {
		if p.covers(group) {
			set[p.id.Key()] = p.id.String()
			names[p.id.Key()] = append(names[p.id.Key()], name)
		}
	}
	return set, names
}
