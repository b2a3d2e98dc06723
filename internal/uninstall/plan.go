// Deciding what to do. Pure: no client, no clock.

package uninstall

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
)

// Options are what a user chooses.
type Options struct {
	// All also removes what running pods need, and MIC's records although its Deployment exists.
	All bool
	// Azure is whether there is access to VMs and scale sets.
	Azure bool
}

// Plan is what to do, in this order, and what remains.
type Plan struct {
	Assigned []Assigned
	Ledgers  []Ledger
	Objects  []Object
	// Held are custom resource definitions whose deletion waits for objects.
	Held []Held
	// Living counts the assigned identities that remain because their pods are running.
	Living int
}

// Assigned is an assigned identity to delete, with or without podid's finalizer.
type Assigned struct {
	Object v1.AzureAssignedIdentity
	Reason string
}

// Ledger is what to do with the identities that MIC attached to a node group.
type Ledger struct {
	Record ledger.Record
	Group  compute.Group
	Detach []ledger.Entry
	Keep   []ledger.Entry
	// Blocked is why nothing can be done, if so: a damaged ledger, or no access to Azure.
	Blocked string
}

// Object is one of MIC's records to delete.
type Object struct {
	Object client.Object
	Kind   string
	Reason string
}

// Held is a custom resource definition that waits for its objects.
type Held struct{ Name, Reason string }

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool {
	for _, l := range p.Ledgers {
		if l.Blocked == "" && l.changes() {
			return false
		}
	}
	return len(p.Assigned)+len(p.Objects) == 0
}

// changes reports whether the ledger will change.
func (l Ledger) changes() bool { return len(l.Detach) > 0 || len(l.Keep) == 0 }

// For returns the plan for a cluster.
func For(s *State, o Options) Plan {
	var p Plan
	for i := range s.Assigned {
		reason := s.whyDelete(&s.Assigned[i], o)
		if reason == "" {
			p.Living++
			continue
		}
		p.Assigned = append(p.Assigned, Assigned{s.Assigned[i], reason})
	}
	needs := s.needs(o)
	for _, record := range ledger.Records(s.Ledgers) {
		p.Ledgers = append(p.Ledgers, planLedger(record, needs, o))
	}
	p.Objects = s.records(o)
	for i := range s.Definitions {
		if crd := &s.Definitions[i]; !crd.DeletionTimestamp.IsZero() {
			p.Held = append(p.Held, Held{crd.Name, "is being deleted, which ends when its objects are gone"})
		}
	}
	p.sort()
	return p
}

// sort makes the plan deterministic.
func (p Plan) sort() {
	slices.SortFunc(p.Assigned, func(a, b Assigned) int {
		return cmp.Or(cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Name, b.Object.Name))
	})
	slices.SortFunc(p.Ledgers, func(a, b Ledger) int { return cmp.Compare(a.Group.ResourceID(), b.Group.ResourceID()) })
}

// whyDelete returns why an assigned identity is to be deleted, "" if it is not.
func (s *State) whyDelete(a *v1.AzureAssignedIdentity, o Options) string {
	pod := s.Pods[client.ObjectKey{Namespace: a.Spec.PodNamespace, Name: a.Spec.Pod}]
	switch {
	case !a.DeletionTimestamp.IsZero():
		return "is being deleted"
	case pod == nil:
		return fmt.Sprintf("pod %s/%s is gone", a.Spec.PodNamespace, a.Spec.Pod)
	case !alive(pod):
		return fmt.Sprintf("pod %s/%s has finished", a.Spec.PodNamespace, a.Spec.Pod)
	case o.All:
		return "--all"
	}
	return ""
}

func alive(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// need is an identity on a node group.
type need struct {
	group    compute.Group
	identity string
}

// needs returns the identities that running pods may use on their node groups, and pre-assigned
// ones on any group, because only MIC determines which. Bindings count across namespaces: it is
// better to keep what MIC would refuse than to detach what a pod needs.
func (s *State) needs(o Options) map[need]bool {
	needs := map[need]bool{}
	if o.All {
		return needs
	}
	identities := map[client.ObjectKey]*v1.AzureIdentity{}
	for i := range s.Identities {
		id := &s.Identities[i]
		identities[client.ObjectKeyFromObject(id)] = id
		if id.Annotations[v1.PreassignAnnotation] != "" {
			needs[need{identity: key(id.Spec.ResourceID)}] = true
		}
	}
	bindings := make([]*v1.AzureIdentityBinding, len(s.Bindings))
	for i := range s.Bindings {
		bindings[i] = &s.Bindings[i]
	}
	for _, pod := range s.Pods {
		group, err := compute.ParseProviderID(s.Nodes[pod.Spec.NodeName])
		if err != nil || !alive(pod) {
			continue
		}
		grants, _ := identity.Rules{}.Grants(
			identity.Pod{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}, bindings,
			func(namespace, name string) *v1.AzureIdentity {
				return identities[client.ObjectKey{Namespace: namespace, Name: name}]
			})
		for _, grant := range grants {
			needs[need{group, key(grant.Identity.Spec.ResourceID)}] = true
		}
	}
	return needs
}

// key returns a form of a resource ID that is equal for all spellings that Azure may treat as one:
// what a pod needs must not be detached because it is spelled in another way.
func key(resourceID string) string { return ascii.Loose(strings.TrimSpace(resourceID)) }

func planLedger(record ledger.Record, needs map[need]bool, o Options) Ledger {
	group := record.Group
	l := Ledger{Record: record, Group: group}
	if record.Damaged != nil {
		l.Blocked = record.Damaged.Error() + ": it is unknown what podid attached; " +
			"check the identities of the node group by hand, then delete the ConfigMap"
		return l
	}
	for _, name := range slices.Sorted(maps.Keys(record.Entries)) {
		entry := record.Entries[name]
		id := key(entry.ResourceID)
		if entry.Keep {
			continue // attached by another writer and only renewed by podid
		}
		if needs[need{group, id}] || needs[need{identity: id}] {
			l.Keep = append(l.Keep, entry)
			continue
		}
		l.Detach = append(l.Detach, entry)
	}
	if len(l.Detach) > 0 && !o.Azure {
		l.Blocked = "no cloud config: use --cloudconfig FILE, or the environment as for mic"
	}
	return l
}

// records returns MIC's own objects, which are deleted once its Deployment is gone.
func (s *State) records(o Options) []Object {
	if len(s.Deployments) > 0 && !o.All {
		return nil
	}
	reason := "MIC is no longer installed"
	if len(s.Deployments) > 0 {
		reason = "--all"
	}
	var objects []Object
	for i := range s.Leases {
		if s.Namespace == "" || s.Namespace == s.Leases[i].Namespace {
			objects = append(objects, Object{&s.Leases[i], "Lease", reason})
		}
	}
	for i := range s.Records {
		if onlyRecord(&s.Records[i]) {
			objects = append(objects, Object{&s.Records[i], "ConfigMap", reason})
		}
	}
	return objects
}

// onlyRecord reports whether a ConfigMap has nothing but the type upgrade's record, or nothing at
// all, which is how v1.8.17 leaves it if its upgrade failed.
func onlyRecord(cm *corev1.ConfigMap) bool {
	_, recorded := cm.Data[upgradeKey]
	return len(cm.BinaryData) == 0 && (len(cm.Data) == 0 || recorded && len(cm.Data) == 1)
}

// upgradeKey is the default of --type-upgrade-status-key.
const upgradeKey = "type-upgrade-status"

// Rows returns the plan as a table.
func (p Plan) Rows() []Row {
	var rows []Row
	for _, a := range p.Assigned {
		rows = append(rows, Row{"delete", "AzureAssignedIdentity", a.Object.Namespace, a.Object.Name, a.Reason})
	}
	for _, l := range p.Ledgers {
		rows = append(rows, l.rows()...)
	}
	for _, o := range p.Objects {
		rows = append(rows, Row{"delete", o.Kind, o.Object.GetNamespace(), o.Object.GetName(), o.Reason})
	}
	for _, h := range p.Held {
		rows = append(rows, Row{"wait", "CustomResourceDefinition", "", h.Name, h.Reason})
	}
	return rows
}

// Row is one line of a plan. Actions are delete, detach, keep, skip and wait.
type Row struct {
	Action    string `json:"action"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	// Name of the object; of an identity on a node group, its ARM resource ID.
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

func (l Ledger) rows() []Row {
	var rows []Row
	action, reason := "detach", "MIC attached it to "+l.Group.String()+", and no pod there needs it"
	if l.Blocked != "" {
		action, reason = "skip", l.Blocked
	}
	for _, e := range l.Detach {
		rows = append(rows, Row{action, "Identity", "", e.ResourceID, reason})
	}
	for _, e := range l.Keep {
		reason := "on " + l.Group.String() + ", where pods may use it"
		rows = append(rows, Row{"keep", "Identity", "", e.ResourceID, reason})
	}
	switch {
	case l.Blocked != "" && len(l.Detach) == 0:
		rows = append(rows, Row{"skip", "ConfigMap", l.Record.Namespace, l.Record.Name, l.Blocked})
	case l.Blocked == "" && len(l.Keep) == 0:
		rows = append(rows, l.deleteRow())
	}
	return rows
}

// deleteRow is the row of the ledger's deletion.
func (l Ledger) deleteRow() Row {
	reason := "the ledger of " + l.Group.String() + " is no longer needed"
	return Row{"delete", "ConfigMap", l.Record.Namespace, l.Record.Name, reason}
}

// Count returns the number of rows by action, as a summary line.
func Count(rows []Row) string {
	counts := map[string]int{}
	for _, row := range rows {
		counts[row.Action]++
	}
	var words []string
	for _, action := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d to %s", counts[action], action))
	}
	return strings.Join(words, ", ")
}
