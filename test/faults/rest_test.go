// Checks of the end: what must be in the cluster and on Azure when everything is at rest.
package faults_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// rest is the state when everything is at rest, and the initial state. It has no client and no
// clock: wrong is a pure function. Resource IDs compare case-insensitively.
type rest struct {
	rules      identity.Rules
	nodes      []corev1.Node
	pods       []corev1.Pod
	bindings   []v1.AzureIdentityBinding
	identities []v1.AzureIdentity
	assigned   []v1.AzureAssignedIdentity
	// ledgers holds the resource IDs that MIC recorded as attached, by node group.
	ledgers map[string][]string
	// azure holds the identities on the node groups.
	azure map[string]machine
	// foreign holds the resource IDs on each node group that others attached before MIC started.
	foreign map[string][]string
	// system contains the node groups that had a system-assigned identity.
	system map[string]bool
	// refused holds the resource IDs that Azure does not let MIC assign, with the expected
	// status.reason.
	refused map[string]string
	// clients holds Azure's client IDs by resource ID.
	clients map[string]string
}

// machine is a VM or scale set as ARM returns it.
type machine struct {
	system bool
	listed []string
}

// pair identifies an assigned identity by its pod and identity.
type pair struct{ pod, identity string }

// want is the expected content of an assigned identity.
type want struct {
	node, status, reason string
	grant                identity.Grant
}

// wrong returns everything that is not as it must be, in a stable order.
func (r rest) wrong() []string {
	wanted, needed := r.wanted()
	wrong := slices.Concat(r.wrongAssigned(wanted), r.wrongConditions(wanted), r.wrongAzure(needed), r.wrongLedgers(needed))
	slices.Sort(wrong)
	return wrong
}

// wanted applies the rules: which assigned identities there must be, and what the node groups must
// have for them.
func (r rest) wanted() (wanted map[pair]want, needed map[string]map[string]bool) {
	groups := map[string]string{}
	for i := range r.nodes {
		groups[r.nodes[i].Name] = groupOf(r.nodes[i].Spec.ProviderID)
	}
	wanted, needed = map[pair]want{}, map[string]map[string]bool{}
	for i := range r.pods {
		pod := &r.pods[i]
		group, there := groups[pod.Spec.NodeName]
		if !there || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, grant := range r.grants(pod) {
			w := want{node: pod.Spec.NodeName, grant: grant, status: v1.StateAssigned}
			resource := fold(grant.Identity.Spec.ResourceID)
			switch {
			case grant.Identity.Spec.Type != v1.UserAssignedMSI:
			case group == "":
				w.status, w.reason = v1.StateCreated, "NodeNotOnAzure"
			case r.refused[resource] != "":
				w.status, w.reason = v1.StateCreated, r.refused[resource]
			case mismatched(grant.Identity.Spec, r.clients[resource]):
				w.status, w.reason = v1.StateCreated, "ClientIDMismatch"
			default:
				if needed[group] == nil {
					needed[group] = map[string]bool{}
				}
				needed[group][resource] = true
			}
			wanted[pair{pod.Namespace + "/" + pod.Name, grant.Identity.Namespace + "/" + grant.Identity.Name}] = w
		}
	}
	return wanted, needed
}

// mismatched reports whether an identity names another client ID than Azure has.
func mismatched(spec v1.AzureIdentitySpec, client string) bool {
	return spec.Type == v1.UserAssignedMSI && spec.ClientID != "" && client != "" && !strings.EqualFold(spec.ClientID, client)
}

func (r rest) grants(pod *corev1.Pod) []identity.Grant {
	bindings := make([]*v1.AzureIdentityBinding, 0, len(r.bindings))
	for i := range r.bindings {
		bindings = append(bindings, &r.bindings[i])
	}
	grants, _ := r.rules.Grants(podOf(pod), bindings,
		func(namespace, name string) *v1.AzureIdentity {
			for i := range r.identities {
				if r.identities[i].Namespace == namespace && r.identities[i].Name == name {
					return &r.identities[i]
				}
			}
			return nil
		})
	return grants
}

// podOf returns what the rules need to know about a pod.
func podOf(pod *corev1.Pod) identity.Pod {
	return identity.Pod{
		Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, ServiceAccount: pod.Spec.ServiceAccountName,
		NamespaceLabels: map[string]string{corev1.LabelMetadataName: pod.Namespace},
	}
}

func (r rest) wrongAssigned(wanted map[pair]want) (wrong []string) {
	seen := map[pair]bool{}
	for i := range r.assigned {
		a := &r.assigned[i]
		name := a.Namespace + "/" + a.Name
		if a.Spec.AzureIdentityRef == nil || a.Spec.AzureBindingRef == nil {
			wrong = append(wrong, fmt.Sprintf("assigned identity %s: no references", name))
			continue
		}
		p := pair{a.Spec.PodNamespace + "/" + a.Spec.Pod, a.Spec.AzureIdentityRef.Namespace + "/" + a.Spec.AzureIdentityRef.Name}
		w, ok := wanted[p]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("assigned identity %s: left over, nothing grants %s to pod %s", name, p.identity, p.pod))
			continue
		case seen[p]:
			wrong = append(wrong, fmt.Sprintf("assigned identity %s: the second of pod %s and %s", name, p.pod, p.identity))
		}
		seen[p] = true
		for _, what := range w.differs(a) {
			wrong = append(wrong, fmt.Sprintf("assigned identity %s: %s", name, what))
		}
	}
	for p, w := range wanted {
		if !seen[p] {
			wrong = append(wrong, fmt.Sprintf("pod %s on %s: no assigned identity for %s", p.pod, w.node, p.identity))
		}
	}
	return wrong
}

// differs returns the differences of an assigned identity from the expected content.
func (w want) differs(a *v1.AzureAssignedIdentity) (wrong []string) {
	said := func(what string, got, want any) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s is %q, want %q", what, got, want))
		}
	}
	said("node", a.Spec.NodeName, w.node)
	said("status", a.Status.Status, w.status)
	said("reason", a.Status.Reason, w.reason)
	id, binding := a.Spec.AzureIdentityRef, a.Spec.AzureBindingRef
	said("identity's uid", id.UID, w.grant.Identity.UID)
	said("binding", binding.Namespace+"/"+binding.Name, w.grant.Binding.Namespace+"/"+w.grant.Binding.Name)
	said("binding's uid", binding.UID, w.grant.Binding.UID)
	if !equality.Semantic.DeepEqual(id.Spec, w.grant.Identity.Spec) || !equality.Semantic.DeepEqual(binding.Spec, w.grant.Binding.Spec) {
		wrong = append(wrong, "it holds an older version of its identity or binding")
	}
	if len(a.Finalizers) > 0 {
		wrong = append(wrong, fmt.Sprintf("it has finalizers %v", a.Finalizers))
	}
	if a.DeletionTimestamp != nil {
		wrong = append(wrong, fmt.Sprintf("it is stuck in deletion, finalizers %v", a.Finalizers))
	}
	return wrong
}

// wrongConditions returns identities that pods need and whose condition does not report whether
// Azure lets MIC assign them.
func (r rest) wrongConditions(wanted map[pair]want) (wrong []string) {
	refused := map[string]bool{} // by name; what one node group refuses, all do
	for p, w := range wanted {
		refused[p.identity] = refused[p.identity] || w.reason != "" && w.reason != "NodeNotOnAzure"
	}
	for i := range r.identities {
		name := r.identities[i].Namespace + "/" + r.identities[i].Name
		if _, needed := refused[name]; !needed {
			continue
		}
		said := meta.IsStatusConditionFalse(r.identities[i].Status.Conditions, v1.ConditionAssignable)
		if said != refused[name] {
			wrong = append(wrong, fmt.Sprintf("identity %s: condition %s: false is %v, want %v", name, v1.ConditionAssignable, said, refused[name]))
		}
	}
	return wrong
}

func (r rest) wrongAzure(needed map[string]map[string]bool) (wrong []string) {
	for _, group := range slices.Sorted(maps.Keys(r.azure)) {
		m := r.azure[group]
		listed := set(m.listed)
		if m.system != r.system[group] {
			wrong = append(wrong, fmt.Sprintf("%s: system-assigned identity: %v, was %v", short(group), m.system, r.system[group]))
		}
		for _, id := range r.foreign[group] {
			if !listed[fold(id)] {
				wrong = append(wrong, fmt.Sprintf("%s: %s was taken away, which others had assigned", short(group), short(id)))
			}
		}
		for id := range needed[group] {
			if !listed[id] {
				wrong = append(wrong, fmt.Sprintf("%s: %s is missing", short(group), short(id)))
			}
		}
		for id := range listed {
			if !needed[group][id] && !r.isForeign(group, id) {
				wrong = append(wrong, fmt.Sprintf("%s: %s was left over", short(group), short(id)))
			}
		}
	}
	return wrong
}

func (r rest) wrongLedgers(needed map[string]map[string]bool) (wrong []string) {
	for group, ids := range r.ledgers {
		listed := set(r.azure[group].listed)
		for _, id := range ids {
			switch {
			case r.isForeign(group, id):
				wrong = append(wrong, fmt.Sprintf("ledger of %s: %s is not MIC's", short(group), short(id)))
			case !listed[fold(id)]:
				wrong = append(wrong, fmt.Sprintf("ledger of %s: %s is not there", short(group), short(id)))
			}
		}
	}
	for group, ids := range needed {
		recorded := set(r.ledgers[group])
		for id := range ids {
			if !recorded[id] && !r.isForeign(group, id) {
				wrong = append(wrong, fmt.Sprintf("ledger of %s: %s is not in it and would never leave", short(group), short(id)))
			}
		}
	}
	return wrong
}

func (r rest) isForeign(group, id string) bool {
	return slices.ContainsFunc(r.foreign[group], func(f string) bool { return strings.EqualFold(f, id) })
}

// groupOf returns the ARM ID of a node's VM or scale set, or "" if the node is not on Azure.
func groupOf(providerID string) string {
	id, ok := strings.CutPrefix(fold(providerID), "azure://")
	if !ok {
		return ""
	}
	if at := strings.LastIndex(id, "/virtualmachines/"); at >= 0 && strings.Contains(id, "/virtualmachinescalesets/") {
		id = id[:at]
	}
	return id
}

func fold(s string) string { return strings.ToLower(s) }

// short returns the last part of an ARM ID.
func short(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

func set(ids []string) map[string]bool {
	out := make(map[string]bool, len(ids))
	for _, id := range ids {
		out[fold(id)] = true
	}
	return out
}
