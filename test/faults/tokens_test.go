// Checks of tokens: after every write, NMI's decisions give a pod only what bindings and policy
// grant.
package faults_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/identity"
)

// agents replays the writes of a run to the decision tables of the nodes' agents and asks for
// tokens after each. It keeps the objects themselves for comparison. (The metadata client has its
// own tests that a token is of the identity decided on.)
type agents struct {
	m *moments
	// unheard reports whether the agents miss a write; nil means that they miss none.
	unheard func(write) bool

	tables     map[string]*authorize.Table // by node
	pods       map[string]*corev1.Pod
	bindings   map[string]*v1.AzureIdentityBinding
	identities map[string]*v1.AzureIdentity
	assigned   map[string]*v1.AzureAssignedIdentity
	policy     *identity.Policy
	asked      int // requests for tokens
	given      int // of them, granted
}

// wrongTokens returns the tokens that the agents would have given wrongly.
func (a *agents) wrongTokens() (wrong []string) {
	a.tables, a.pods, a.bindings = map[string]*authorize.Table{}, map[string]*corev1.Pod{}, map[string]*v1.AzureIdentityBinding{}
	a.identities, a.assigned = map[string]*v1.AzureIdentity{}, map[string]*v1.AzureAssignedIdentity{}
	a.policy, _ = identity.CompilePolicy(nil) // a missing object is valid
	for _, w := range a.m.writes {
		namespace, name, _ := strings.Cut(w.key, "/")
		key := types.NamespacedName{Namespace: namespace, Name: name}
		a.record(w)
		if a.unheard == nil || !a.unheard(w) {
			a.deliver(w, key)
		}
		for _, what := range a.ask() {
			wrong = append(wrong, clock(w.ended)+": "+what)
		}
	}
	return wrong
}

// record stores the object of a write.
func (a *agents) record(w write) {
	switch w.resource {
	case "pods":
		keep(a.pods, w)
		if p := a.pods[w.key]; p != nil && a.tables[p.Spec.NodeName] == nil {
			a.tables[p.Spec.NodeName] = a.table(p.Spec.NodeName)
		}
	case "azureidentities":
		keep(a.identities, w)
	case "azureidentitybindings":
		keep(a.bindings, w)
	case "azureassignedidentities":
		keep(a.assigned, w)
	case "azureidentitypolicies":
		policy, _ := w.object.(*v1.AzureIdentityPolicy)
		a.policy, _ = identity.CompilePolicy(policy) // an invalid rule allows nothing
	}
}

func keep[T any](objects map[string]*T, w write) {
	if object, _ := w.object.(*T); object != nil {
		objects[w.key] = object
		return
	}
	delete(objects, w.key)
}

// table returns the decision table of an agent that starts at this point.
func (a *agents) table(node string) *authorize.Table {
	t := authorize.NewTable(authorize.Config{
		Rules: a.m.rules, Standard: true, Node: node, Types: []v1.IdentityType{v1.UserAssignedMSI, v1.ServicePrincipal, v1.ServicePrincipalCertificate},
	})
	for _, p := range a.pods {
		t.SetNamespace(p.Namespace, map[string]string{corev1.LabelMetadataName: p.Namespace})
	}
	for _, b := range a.bindings {
		t.SetBinding(b)
	}
	for _, id := range a.identities {
		t.SetIdentity(id)
	}
	for _, assigned := range a.assigned {
		t.SetAssigned(assigned)
	}
	t.SetPolicy(a.policy)
	return t
}

// deliver passes a write to the agents.
func (a *agents) deliver(w write, key types.NamespacedName) {
	for node, t := range a.tables {
		switch object := w.object.(type) {
		case *corev1.Pod:
			t.SetNamespace(object.Namespace, map[string]string{corev1.LabelMetadataName: object.Namespace})
			if object.Spec.NodeName == node {
				t.SetPod(identity.Pod{Namespace: key.Namespace, Name: key.Name, Labels: object.Labels, ServiceAccount: object.Spec.ServiceAccountName})
			}
		case *v1.AzureIdentity:
			t.SetIdentity(object)
		case *v1.AzureIdentityBinding:
			t.SetBinding(object)
		case *v1.AzureAssignedIdentity:
			t.SetAssigned(object)
		case *v1.AzureIdentityPolicy:
			t.SetPolicy(a.policy)
		default:
			a.deliverRemoval(t, w.resource, key)
		}
	}
}

func (a *agents) deliverRemoval(t *authorize.Table, resource string, key types.NamespacedName) {
	switch resource {
	case "pods":
		t.RemovePod(key)
	case "azureidentities":
		t.RemoveIdentity(key)
	case "azureidentitybindings":
		t.RemoveBinding(key)
	case "azureassignedidentities":
		t.RemoveAssigned(key)
	case "azureidentitypolicies":
		t.SetPolicy(a.policy)
	}
}

// ask makes every pod ask for a token: for its first identity, and for each identity whose IDs a
// tenant may know.
func (a *agents) ask() (wrong []string) {
	selectors := []identity.Selector{{}}
	for id, client := range a.m.clients {
		selectors = append(selectors, identity.Selector{ClientID: client}, identity.Selector{ResourceID: id})
	}
	for id := range a.m.never {
		selectors = append(selectors, identity.Selector{ResourceID: id})
	}
	for _, key := range slices.Sorted(maps.Keys(a.pods)) {
		pod := a.pods[key]
		for _, s := range selectors {
			a.asked++
			d := a.tables[pod.Spec.NodeName].Decide(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, s, func(*v1.AzureIdentity) string { return "" })
			if d.Kind != authorize.Allow {
				continue
			}
			a.given++
			if why := a.wrongly(pod, d.Grant.Identity); why != "" {
				wrong = append(wrong, fmt.Sprintf("pod %s would get a token of %s/%s (%s), %s", key, d.Grant.Identity.Namespace, d.Grant.Identity.Name,
					short(d.Grant.Identity.Spec.ResourceID), why))
			}
		}
	}
	return wrong
}

// wrongly returns why the pod must not get a token of the identity, or "".
func (a *agents) wrongly(pod *corev1.Pod, id *v1.AzureIdentity) string {
	if id.Namespace != pod.Namespace {
		return "which is in another namespace"
	}
	bindings := slices.Collect(maps.Values(a.bindings))
	grants, _ := a.m.rules.With(a.policy).Grants(podOf(pod), bindings, func(namespace, name string) *v1.AzureIdentity { return a.identities[namespace+"/"+name] })
	if !slices.ContainsFunc(grants, func(g identity.Grant) bool {
		return g.Identity.Name == id.Name && cmp.Equal(g.Identity.Spec, id.Spec)
	}) {
		return "which no binding and policy gives it"
	}
	if id.Spec.Type != v1.UserAssignedMSI {
		return ""
	}
	if why := a.m.never[fold(id.Spec.ResourceID)]; why != "" {
		return why
	}
	for _, assigned := range a.assigned {
		ref := assigned.Spec.AzureIdentityRef
		if assigned.Spec.Pod == pod.Name && assigned.Spec.PodNamespace == pod.Namespace && assigned.Status.Status == v1.StateAssigned &&
			ref != nil && ref.Name == id.Name && fold(ref.Spec.ResourceID) == fold(id.Spec.ResourceID) {
			return ""
		}
	}
	return "which is not assigned"
}

// TestTokens checks the check: agents that miss a write are found.
func TestTokens(t *testing.T) {
	good := wellDone()
	pod := newPod("ns", "pod", "app", "node")
	enforce := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce}}
	moved := good.identities[0].DeepCopy()
	moved.Spec.ResourceID = other
	waiting := good.assigned[0].DeepCopy()
	waiting.Status.Status = v1.StateCreated
	for _, c := range []struct {
		name   string
		change write
		want   string
	}{
		{"binding gone", write{resource: "azureidentitybindings", key: "ns/binding"}, "which no binding and policy gives it"},
		{"forbidden", write{resource: "azureidentitypolicies", key: "/" + v1.PolicyName, object: enforce}, "which no binding and policy gives it"},
		{"another identity under its name", write{resource: "azureidentities", key: "ns/id", object: moved}, "which no binding and policy gives it"},
		{"identity gone", write{resource: "azureidentities", key: "ns/id"}, "which no binding and policy gives it"},
		{"not assigned any more", write{resource: "azureassignedidentities", key: "ns/assigned", object: waiting}, "which is not assigned"},
		{"refused by Azure", write{}, "Azure refuses it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &moments{rules: good.rules, never: map[string]string{}, clients: map[string]string{fold(mine): otherClient}}
			m.writes = []write{
				{resource: "pods", key: "ns/pod", object: pod},
				{resource: "azureidentities", key: "ns/id", object: &good.identities[0]},
				{resource: "azureidentitybindings", key: "ns/binding", object: &good.bindings[0]},
				{resource: "azureassignedidentities", key: "ns/assigned", object: &good.assigned[0], mic: true},
				c.change,
			}
			if c.change.resource == "" {
				m.never[fold(mine)] = "Azure refuses it"
			} else {
				heard := agents{m: m}
				compare(t, heard.wrongTokens(), nil)
				if heard.given == 0 {
					t.Error("no token was given at all")
				}
			}
			missed := agents{m: m, unheard: func(w write) bool {
				return w.resource == c.change.resource && w.key == c.change.key && w.object == c.change.object
			}}
			wrong := missed.wrongTokens()
			if len(wrong) == 0 {
				t.Fatal("nothing was found")
			}
			compare(t, wrong[:1], []string{c.want})
		})
	}
}
