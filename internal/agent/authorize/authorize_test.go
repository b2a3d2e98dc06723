package authorize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

func key(name string) types.NamespacedName { return types.NamespacedName{Namespace: "ns", Name: name} }

func newTable(change func(*Config)) *Table {
	c := Config{
		Rules: identity.Rules{ForceNamespaced: true}, Standard: true, Node: "node", Types: []v1.IdentityType{v1.UserAssignedMSI},
		ArrivalLimit: 100 * time.Second, BindingLimit: 8 * time.Second,
	}
	if change != nil {
		change(&c)
	}
	return NewTable(c)
}

func anIdentity(name string, change ...func(*v1.AzureIdentitySpec)) *v1.AzureIdentity {
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: v1.AzureIdentitySpec{
			ResourceID: "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name,
			ClientID:   "client-" + name,
		},
	}
	for _, c := range change {
		c(&id.Spec)
	}
	return id
}

func aBinding(name, id, selector string, weight int) *v1.AzureIdentityBinding {
	return &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: id, Selector: selector, Weight: weight},
	}
}

func assigned(pod, id, state string, change ...func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
	a := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: pod + "-ns-" + id},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: "ns", NodeName: "node",
			AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: id}, Spec: anIdentity(id).Spec},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: state},
	}
	for _, c := range change {
		c(a)
	}
	return a
}

func refusedFor(why string) func(*v1.AzureAssignedIdentity) {
	return func(a *v1.AzureAssignedIdentity) { a.Status.Reason, a.Status.Message = why, "remedy" }
}

// decided is a decision in short: "allow one", "400 NoMatch", "wait 100s 404 …".
func decided(d Decision) string {
	switch d.Kind {
	case Allow:
		return "allow " + d.Grant.Identity.Name
	case PlainIMDS:
		return "plain"
	case Learn:
		names := []string{"learn"}
		for _, id := range d.Unknown {
			names = append(names, id.Name)
		}
		return strings.Join(names, " ")
	case Wait:
		return fmt.Sprintf("wait %v %d %s", d.Limit, d.Refusal.Reason.Status(), d.Refusal.Reason.Name())
	default:
		return fmt.Sprintf("%d %s", d.Refusal.Reason.Status(), d.Refusal.Reason.Name())
	}
}

func TestDecide(t *testing.T) {
	web := map[string]string{v1.BindingLabel: "web"}
	bound := func(t *Table, weights ...int) {
		t.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web})
		for i, w := range weights {
			name := []string{"one", "two", "three"}[i]
			t.SetIdentity(anIdentity(name))
			t.SetBinding(aBinding("to-"+name, name, "web", w))
		}
	}
	tests := []struct {
		name     string
		config   func(*Config)
		world    func(*Table)
		selector identity.Selector
		learned  map[string]string
		want     string
	}{
		{name: "unknown pod", world: func(*Table) {}, want: "wait 8s 500 PodUnknown"},
		{name: "no label", world: func(t *Table) { t.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: nil}) }, want: "400 NoLabel"},
		{name: "no binding", world: func(t *Table) { bound(t) }, want: "wait 8s 404 NoBinding"},
		{name: "no binding, named", world: func(t *Table) { bound(t) }, selector: identity.Selector{ClientID: "x"}, want: "wait 8s 404 NoBinding"},
		{name: "identity missing", world: func(t *Table) { bound(t); t.SetBinding(aBinding("b", "gone", "web", 0)) }, want: "wait 8s 404 IdentityMissing"},
		{name: "other namespace", world: func(t *Table) {
			bound(t)
			b := aBinding("b", "one", "web", 0)
			b.Namespace = "other"
			t.SetBinding(b)
		}, want: "wait 8s 404 OtherNamespace"},
		{name: "other namespace, open", config: func(c *Config) { c.Rules.ForceNamespaced, c.Standard = false, false }, world: func(t *Table) {
			bound(t)
			b, id := aBinding("b", "one", "web", 0), anIdentity("one")
			b.Namespace, id.Namespace = "other", "other"
			t.SetBinding(b)
			t.SetIdentity(id)
		}, want: "allow one"},
		{name: "excepted", world: func(t *Table) {
			bound(t, 1)
			t.SetException(&v1.AzurePodIdentityException{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e"}, Spec: v1.AzurePodIdentityExceptionSpec{PodLabels: web}})
		}, want: "plain"},

		{name: "no object yet", world: func(t *Table) { bound(t, 1) }, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "host network: no object will come", world: func(t *Table) {
			bound(t, 1)
			t.SetHostNetworkPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web})
		}, want: "allow one"},
		{name: "host network, no binding", world: func(t *Table) { t.SetHostNetworkPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web}) }, want: "wait 8s 404 NoBinding"},
		{name: "host network, quarantined", world: func(t *Table) {
			bound(t, 1)
			t.SetHostNetworkPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web})
			t.SetAssigned(assigned("web", "one", v1.StateCreated, refusedFor("NotFound")))
		}, want: "403 IdentityQuarantined"},
		{name: "host network before, under the same name", world: func(t *Table) {
			t.SetHostNetworkPod(identity.Pod{Namespace: "ns", Name: "web", Labels: web})
			bound(t, 1)
		}, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "created", world: func(t *Table) { bound(t, 1); t.SetAssigned(assigned("web", "one", v1.StateCreated)) }, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "assigned", world: func(t *Table) { bound(t, 1); t.SetAssigned(assigned("web", "one", v1.StateAssigned)) }, want: "allow one"},
		{name: "assigned, by an old MIC", world: func(t *Table) { bound(t, 1); t.SetAssigned(assigned("web", "one", "")) }, want: "allow one"},
		{name: "unassigned", world: func(t *Table) { bound(t, 1); t.SetAssigned(assigned("web", "one", v1.StateUnassigned)) }, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "assigned elsewhere", world: func(t *Table) {
			bound(t, 1)
			t.SetAssigned(assigned("web", "one", v1.StateAssigned, func(a *v1.AzureAssignedIdentity) { a.Spec.NodeName = "other" }))
		}, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "assigned, being deleted", world: func(t *Table) {
			bound(t, 1)
			t.SetAssigned(assigned("web", "one", v1.StateAssigned, func(a *v1.AzureAssignedIdentity) { a.DeletionTimestamp = &metav1.Time{Time: time.Now()} }))
		}, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "assigned before an edit", world: func(t *Table) {
			bound(t, 1)
			t.SetAssigned(assigned("web", "one", v1.StateAssigned, func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec.ResourceID = "/other" }))
		}, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "two generations", world: func(t *Table) {
			bound(t, 1)
			t.SetAssigned(assigned("web", "one", v1.StateAssigned))
			t.SetAssigned(assigned("web", "one", v1.StateCreated, func(a *v1.AzureAssignedIdentity) { a.Namespace = "default" }))
		}, want: "allow one"},
		{name: "assigned, not granted", world: func(t *Table) { bound(t); t.SetAssigned(assigned("web", "one", v1.StateAssigned)) }, want: "wait 8s 404 NoBinding"},
		{name: "managed", config: func(c *Config) { c.Standard = false }, world: func(t *Table) { bound(t, 1) }, want: "allow one"},

		{name: "quarantined", world: func(t *Table) {
			bound(t, 1)
			t.SetAssigned(assigned("web", "one", v1.StateCreated, refusedFor("Gone")))
		}, want: "403 IdentityQuarantined"},
		{name: "quarantined once", world: func(t *Table) {
			bound(t, 1)
			t.SetAssigned(assigned("web", "one", v1.StateAssigned, refusedFor("Gone")))
		}, want: "allow one"},
		{name: "first quarantined", world: func(t *Table) {
			bound(t, 2, 1)
			t.SetAssigned(assigned("web", "one", v1.StateCreated, refusedFor("Gone")))
			t.SetAssigned(assigned("web", "two", v1.StateAssigned))
		}, want: "allow two"},
		{name: "first quarantined, named", world: func(t *Table) {
			bound(t, 2, 1)
			t.SetAssigned(assigned("web", "one", v1.StateCreated, refusedFor("Gone")))
			t.SetAssigned(assigned("web", "two", v1.StateAssigned))
		}, selector: identity.Selector{ClientID: "CLIENT-ONE"}, want: "403 IdentityQuarantined"},
		{name: "first on its way", world: func(t *Table) { bound(t, 2, 1); t.SetAssigned(assigned("web", "two", v1.StateAssigned)) }, want: "wait 1m40s 404 IdentityNotAssigned"},
		{name: "by weight", config: func(c *Config) { c.Standard = false }, world: func(t *Table) { bound(t, 1, 3, 2) }, want: "allow two"},

		{name: "broken", world: func(t *Table) {
			bound(t, 1)
			t.SetIdentity(anIdentity("one", func(s *v1.AzureIdentitySpec) { s.ResourceID = "x" }))
		}, want: "403 IdentityBroken"},
		{name: "broken, other named", world: func(t *Table) {
			bound(t, 1, 1)
			t.SetIdentity(anIdentity("one", func(s *v1.AzureIdentitySpec) { s.ResourceID = "x" }))
			t.SetAssigned(assigned("web", "two", v1.StateAssigned))
		}, selector: identity.Selector{ClientID: "client-two"}, want: "allow two"},
		{name: "broken, named", world: func(t *Table) {
			bound(t, 1, 1)
			t.SetIdentity(anIdentity("one", func(s *v1.AzureIdentitySpec) { s.ResourceID = "x" }))
		}, selector: identity.Selector{ClientID: "client-one"}, want: "403 IdentityBroken"},
		{name: "other kind", world: func(t *Table) {
			bound(t, 1)
			t.SetIdentity(anIdentity("one", func(s *v1.AzureIdentitySpec) {
				s.Type, s.TenantID, s.ClientPassword.Name = v1.ServicePrincipalCertificate, "t", "s"
			}))
		}, want: "403 TypeNotSupported"},
		{name: "service principal", config: func(c *Config) { c.Types = append(c.Types, v1.ServicePrincipal) }, world: func(t *Table) {
			bound(t, 1)
			t.SetIdentity(anIdentity("one", func(s *v1.AzureIdentitySpec) {
				s.Type, s.TenantID, s.ClientPassword.Name = v1.ServicePrincipal, "t", "s"
			})) // nothing has to come to the node
		}, want: "allow one"},
		{name: "managed mode, client ID only", config: func(c *Config) { c.Standard, c.Rules.Managed = false, true }, world: func(t *Table) {
			bound(t, 1)
			t.SetIdentity(anIdentity("one", func(s *v1.AzureIdentitySpec) { s.ResourceID = "" }))
		}, want: "allow one"},

		{name: "no match", world: func(t *Table) { bound(t, 1) }, selector: identity.Selector{ClientID: "x"}, want: "400 NoMatch"},
		{name: "no match, more than it can use", config: func(c *Config) { c.Standard = false }, world: func(t *Table) {
			bound(t)
			for i := range identity.MaxIdentities + 1 {
				grant(t, "ns", fmt.Sprint("id-", i), "web")
			}
		}, selector: identity.Selector{ClientID: "client-id-99"}, want: "400 TooManyIdentities"},
		{name: "no match, one missing", world: func(t *Table) { bound(t, 1); t.SetBinding(aBinding("b", "gone", "web", 0)) }, selector: identity.Selector{ClientID: "x"}, want: "wait 8s 404 IdentityMissing"},
		{
			name: "resource id", config: func(c *Config) { c.Standard = false }, world: func(t *Table) { bound(t, 2, 1) },
			selector: identity.Selector{ResourceID: strings.ToUpper(anIdentity("two").Spec.ResourceID)}, want: "allow two",
		},
		{name: "object id of the spec", config: func(c *Config) { c.Standard = false }, world: func(t *Table) {
			bound(t, 2, 1)
			t.SetIdentity(anIdentity("two", func(s *v1.AzureIdentitySpec) { s.ObjectID = "OID" }))
		}, selector: identity.Selector{ObjectID: "oid"}, want: "allow two"},
		{
			name: "object id to learn", config: func(c *Config) { c.Standard = false }, world: func(t *Table) { bound(t, 2, 1) },
			selector: identity.Selector{ObjectID: "oid"}, want: "learn one two",
		},
		{
			name: "object id learned", config: func(c *Config) { c.Standard = false }, world: func(t *Table) { bound(t, 2, 1) },
			selector: identity.Selector{ObjectID: "oid"}, learned: map[string]string{"two": "OID"}, want: "allow two",
		},
		{
			name: "object id of none", config: func(c *Config) { c.Standard = false }, world: func(t *Table) { bound(t, 2, 1) },
			selector: identity.Selector{ObjectID: "oid"}, learned: map[string]string{"one": "x", "two": "y"}, want: "400 NoMatch",
		},
		{
			name: "object id, one on its way", world: func(t *Table) { bound(t, 2, 1); t.SetAssigned(assigned("web", "one", v1.StateAssigned)) },
			selector: identity.Selector{ObjectID: "oid"}, learned: map[string]string{"one": "x"}, want: "wait 1m40s 404 IdentityNotAssigned",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(tt.config)
			tt.world(table)
			d := table.Decide(key("web"), tt.selector, func(id *v1.AzureIdentity) string { return tt.learned[id.Name] })
			if got := decided(d); got != tt.want {
				t.Errorf("got %q, want %q (%v)", got, tt.want, d.Refusal)
			}
			switch {
			case d.Refusal == nil:
			case d.Refusal.Message == "":
				t.Error("no message")
			case strings.Contains(d.Refusal.Message, "other/"):
				t.Errorf("the pod is told of another namespace: %s", d.Refusal.Message)
			}
		})
	}
}

// TestChanges checks for each change whether a waiting pod is notified, and what is decided then.
func TestChanges(t *testing.T) {
	table := newTable(func(c *Config) { c.Types = append(c.Types, v1.Federated) })
	changed := (<-chan struct{})(nil)
	step := func(name string, act func(), heard bool, want string) {
		t.Helper()
		if changed == nil {
			changed = table.Decide(key("web"), identity.Selector{}, nil).Changed
		}
		act()
		select {
		case <-changed:
			if !heard {
				t.Errorf("%s: heard of it for nothing", name)
			}
		default:
			if heard {
				t.Errorf("%s: not heard of it", name)
			}
		}
		d := table.Decide(key("web"), identity.Selector{}, nil)
		changed = d.Changed
		if got := decided(d); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	const assign = "wait 1m40s 404 IdentityNotAssigned"
	step("pod", func() {
		table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "old"}})
	}, true, "wait 8s 404 NoBinding")
	step("label", func() {
		table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "web", "a": "b"}})
	}, true, "wait 8s 404 NoBinding")
	step("status only", func() {
		table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "web", "a": "b"}})
	}, false, "wait 8s 404 NoBinding")
	step("binding of others", func() { table.SetBinding(aBinding("b2", "one", "old", 0)) }, false, "wait 8s 404 NoBinding")
	step("binding", func() { table.SetBinding(aBinding("b", "one", "web", 0)) }, true, "wait 8s 404 IdentityMissing")
	step("identity of others", func() { table.SetIdentity(anIdentity("two")) }, false, "wait 8s 404 IdentityMissing")
	step("identity", func() { table.SetIdentity(anIdentity("one")) }, true, assign)
	step("assigned to others", func() { table.SetAssigned(assigned("api", "one", v1.StateAssigned)) }, false, assign)
	step("created", func() { table.SetAssigned(assigned("web", "one", v1.StateCreated)) }, true, assign)
	step("assigned", func() { table.SetAssigned(assigned("web", "one", v1.StateAssigned)) }, true, "allow one")
	exception := &v1.AzurePodIdentityException{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e"}, Spec: v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"a": "b"}}}
	step("exception", func() { table.SetException(exception) }, true, "plain")
	step("exception gone", func() { table.RemoveException(key("e")) }, true, "allow one")
	step("assigned gone", func() { table.RemoveAssigned(key("web-ns-one")) }, true, assign)
	step("identity gone", func() { table.RemoveIdentity(key("one")) }, true, "wait 8s 404 IdentityMissing")
	shared, owner := anIdentity("one"), anIdentity("cloud")
	owner.Namespace, shared.Spec.Type, owner.Spec.Type = "platform", v1.Federated, v1.Federated
	for _, id := range []*v1.AzureIdentity{shared, owner} {
		id.Spec.TenantID, id.Spec.ClientID = "contoso.com", "client-cloud"
	}
	shared.Spec.SharedFrom = v1.IdentityReference{Namespace: "platform", Name: "cloud"}
	agreed := owner.DeepCopy()
	agreed.Annotations = map[string]string{v1.AllowedNamespacesAnnotation: "ns"}
	table.SetAssigned(assigned("web", "one", v1.StateAssigned))
	changed = nil
	step("shared", func() { table.SetIdentity(shared) }, true, "wait 8s 404 NotShared")
	step("not agreed", func() { table.SetIdentity(owner) }, true, "wait 8s 404 NotShared")
	step("agreed", func() { table.SetIdentity(agreed) }, true, "allow one")
	step("taken back", func() { table.SetIdentity(owner) }, true, "wait 8s 404 NotShared")
	step("agreed again", func() { table.SetIdentity(agreed) }, true, "allow one")
	step("owner gone", func() { table.RemoveIdentity(nameOf(owner)) }, true, "wait 8s 404 NotShared")
	step("assigned gone", func() { table.RemoveAssigned(key("web-ns-one")) }, true, "wait 8s 404 NotShared")
	step("shared gone", func() { table.RemoveIdentity(key("one")) }, true, "wait 8s 404 IdentityMissing")
	step("binding moved", func() { table.SetBinding(aBinding("b", "one", "old", 0)) }, true, "wait 8s 404 NoBinding")
	step("binding gone", func() { table.RemoveBinding(key("b")) }, false, "wait 8s 404 NoBinding")
	step("pod gone", func() { table.RemovePod(key("web")) }, true, "wait 8s 500 PodUnknown")

	table.RemovePod(key("web"))
	table.RemoveBinding(key("b2"))
	table.RemoveIdentity(key("two"))
	table.RemoveAssigned(key("api-ns-one"))
	if n := len(table.pods) + len(table.bySelector) + len(table.bindings) + len(table.selecting) + len(table.selectedIn) + len(table.uses) +
		len(table.identities) + len(table.borrowers) + len(table.exceptions) + len(table.assigned) + len(table.assignedTo); n != 0 {
		t.Errorf("%d left over", n)
	}
}

// TestForeignBindings: bindings in other namespaces with the pod's selector are named in the
// refusal, a few of them, and change neither the pod's verdict nor its waits.
func TestForeignBindings(t *testing.T) {
	table := newTable(nil)
	table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "web"}})
	before := table.Decide(key("web"), identity.Selector{}, nil)
	foreign := aBinding("b", "one", "web", 0)
	for i := range 1000 {
		b := foreign.DeepCopy()
		b.Namespace = fmt.Sprint("other-", i)
		table.SetBinding(b)
	}
	select {
	case <-before.Changed:
		t.Error("bindings of other namespaces woke the pod's requests")
	default:
	}
	d := table.Decide(key("web"), identity.Selector{}, nil)
	if got := decided(d); got != "wait 8s 404 OtherNamespace" {
		t.Errorf("got %q", got)
	}
	if n := strings.Count(d.Refusal.Detail(), "AzureIdentityBinding other-"); n != maxForeign {
		t.Errorf("%d bindings in the detail, want %d: %s", n, maxForeign, d.Refusal.Detail())
	}
	for i := range 1000 {
		table.RemoveBinding(types.NamespacedName{Namespace: fmt.Sprint("other-", i), Name: "b"})
	}
	if got := decided(table.Decide(key("web"), identity.Selector{}, nil)); got != "wait 8s 404 NoBinding" {
		t.Errorf("got %q without them", got)
	}
	if len(table.selectedIn)+len(table.selecting)+len(table.uses) != 0 {
		t.Error("left over")
	}
}

// TestEditedAfterAssigned checks that an identity edited after it was assigned is not used. The
// attack is an identity of another type: it becomes Assigned without any check at Azure, and is
// then edited to name a victim.
func TestEditedAfterAssigned(t *testing.T) {
	victim := anIdentity("victim").Spec
	for name, before := range map[string]v1.AzureIdentitySpec{
		"a service principal":                           {Type: v1.ServicePrincipal, TenantID: "t", ClientID: victim.ClientID},
		"one that kept the resource ID of another type": {Type: v1.ServicePrincipal, TenantID: "t", ClientID: victim.ClientID, ResourceID: victim.ResourceID},
		"another managed identity":                      anIdentity("own").Spec,
		"a spec without IDs":                            {},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable(func(c *Config) { c.Types = append(c.Types, v1.ServicePrincipal) })
			table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "web"}})
			table.SetBinding(aBinding("one", "one", "web", 0))
			edited := anIdentity("one")
			edited.Spec = victim
			table.SetIdentity(edited)
			table.SetAssigned(assigned("web", "one", v1.StateAssigned, func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec = before }))
			if got := table.Decide(key("web"), identity.Selector{}, nil); got.Kind != Wait {
				t.Errorf("got %s, want to wait for MIC", decided(got))
			}
			table.SetAssigned(assigned("web", "one", v1.StateAssigned, func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec = victim }))
			if got := table.Decide(key("web"), identity.Selector{}, nil); got.Kind != Allow {
				t.Errorf("got %s after MIC assigned it", decided(got))
			}
		})
	}
}
