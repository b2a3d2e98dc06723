// Tests of the checks: they find every kind of mistake, and accept what is right.
package faults_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

const (
	scaleSet = "/subscriptions/s/resourcegroups/g/providers/microsoft.compute/virtualmachinescalesets/pool"
	mine     = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mine"
	other    = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/other"
	theirs   = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/theirs"
)

// wellDone returns a correct state: a pod on a node of a scale set and everything that belongs to
// it.
func wellDone() rest {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}
	}
	id := v1.AzureIdentity{ObjectMeta: meta("id"), Spec: v1.AzureIdentitySpec{ResourceID: mine}}
	binding := v1.AzureIdentityBinding{ObjectMeta: meta("binding"), Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "id", Selector: "app"}}
	assigned := v1.AzureAssignedIdentity{ObjectMeta: meta("assigned")}
	assigned.Spec = v1.AzureAssignedIdentitySpec{
		Pod: "pod", PodNamespace: "ns", NodeName: "node",
		AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: id.ObjectMeta, Spec: id.Spec},
		AzureBindingRef:  &v1.AzureIdentityBindingCopy{ObjectMeta: binding.ObjectMeta, Spec: binding.Spec},
	}
	assigned.Status.Status = v1.StateAssigned
	return rest{
		rules:      identity.Rules{ForceNamespaced: true},
		nodes:      []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{ProviderID: "azure://" + scaleSet + "/virtualMachines/0"}}},
		pods:       []corev1.Pod{*newPod("ns", "pod", "app", "node")},
		bindings:   []v1.AzureIdentityBinding{binding},
		identities: []v1.AzureIdentity{id},
		assigned:   []v1.AzureAssignedIdentity{assigned},
		ledgers:    map[string][]string{scaleSet: {mine}},
		azure:      map[string]machine{scaleSet: {system: true, listed: []string{spelled(mine), theirs}}},
		foreign:    map[string][]string{scaleSet: {theirs}},
		system:     map[string]bool{scaleSet: true},
		refused:    map[string]string{fold(other): "IdentityRefused"},
		clients:    map[string]string{fold(mine): otherClient},
	}
}

// use gives the pod another identity.
func (r *rest) use(id string) {
	if r.refused[fold(id)] != "" {
		r.identities[0].Status.Conditions = []metav1.Condition{{Type: v1.ConditionAssignable, Status: metav1.ConditionFalse}}
	}
	r.identities[0].Spec.ResourceID = id
	r.assigned[0].Spec.AzureIdentityRef.Spec.ResourceID = id
}

// have sets what is on the scale set, and which of it MIC recorded as attached.
func (r *rest) have(listed, ledger []string) {
	r.azure[scaleSet] = machine{system: true, listed: listed}
	r.ledgers = map[string][]string{scaleSet: ledger}
}

func TestRest(t *testing.T) {
	now := metav1.Now()
	for _, c := range []struct {
		name   string
		change func(*rest)
		want   []string // parts of the complaints, in order
	}{
		{"all well", func(*rest) {}, nil},
		{"one is missing", func(r *rest) { r.assigned = nil }, []string{"pod ns/pod on node: no assigned identity for ns/id"}},
		{"one too many", func(r *rest) { r.assigned = append(r.assigned, r.assigned[0]) }, []string{"the second of pod ns/pod"}},
		{"pod gone", func(r *rest) { r.pods = nil; r.have([]string{theirs}, nil) }, []string{"left over, nothing grants"}},
		{"pod finished", func(r *rest) { r.pods[0].Status.Phase = corev1.PodFailed }, []string{"left over, nothing grants", "mine was left over"}},
		{"pod on the host's network", func(r *rest) { r.pods[0].Spec.HostNetwork, r.foreign[scaleSet] = true, []string{mine, theirs} }, []string{"left over", "mine is not MIC's"}},
		{"node gone", func(r *rest) { r.nodes, r.foreign[scaleSet], r.ledgers = nil, []string{mine, theirs}, nil }, []string{"left over"}},
		{"still on its way", func(r *rest) { r.assigned[0].Status.Status = v1.StateCreated }, []string{`status is "Created", want "Assigned"`}},
		{"on another node", func(r *rest) { r.assigned[0].Spec.NodeName = "old" }, []string{`node is "old"`}},
		{"identity made again", func(r *rest) { r.identities[0].UID = "new" }, []string{"identity's uid"}},
		{"identity's older version", func(r *rest) { r.identities[0].Spec.ClientID = otherClient }, []string{"older version"}},
		{"stuck", func(r *rest) { r.assigned[0].DeletionTimestamp = &now }, []string{"stuck in deletion"}},
		{"no references", func(r *rest) { r.assigned[0].Spec.AzureIdentityRef = nil }, []string{"no references", "no assigned identity"}},
		{"refused, and said", func(r *rest) {
			r.use(other)
			r.have([]string{theirs}, nil)
			r.assigned[0].Status = v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: "IdentityRefused"}
		}, nil},
		{"well, but said to be refused", func(r *rest) {
			r.identities[0].Status.Conditions = []metav1.Condition{{Type: v1.ConditionAssignable, Status: metav1.ConditionFalse}}
		}, []string{"identity ns/id: condition Assignable"}},
		{"refused, and the identity does not say so", func(r *rest) {
			r.use(other)
			r.have([]string{theirs}, nil)
			r.assigned[0].Status = v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: "IdentityRefused"}
			r.identities[0].Status.Conditions = nil
		}, []string{"identity ns/id: condition Assignable"}},
		{"with a finalizer", func(r *rest) { r.assigned[0].Finalizers = []string{v1.Finalizer} }, []string{"finalizers"}},
		{"refused, not said", func(r *rest) { r.use(other); r.have([]string{theirs}, nil) }, []string{"reason", "status"}},
		{"client ID of another, and said", func(r *rest) {
			r.identities[0].Spec.ClientID, r.assigned[0].Spec.AzureIdentityRef.Spec.ClientID = operatorClient, operatorClient
			r.identities[0].Status.Conditions = []metav1.Condition{{Type: v1.ConditionAssignable, Status: metav1.ConditionFalse}}
			r.assigned[0].Status = v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: "ClientIDMismatch"}
			r.have([]string{theirs}, nil)
		}, nil},
		{"client ID of another, and Assigned", func(r *rest) {
			r.identities[0].Spec.ClientID, r.assigned[0].Spec.AzureIdentityRef.Spec.ClientID = operatorClient, operatorClient
			r.have([]string{theirs}, nil)
		}, []string{"reason is", "status is", "condition Assignable"}},
		{"others' that Azure refuses to MIC", func(r *rest) {
			r.use(theirs)
			r.refused[fold(theirs)] = "IdentityForbidden"
			r.have([]string{theirs}, nil)
		}, []string{"reason is", "status is", "condition Assignable"}},
		{"forbidden by policy", func(r *rest) {
			r.rules.Policy, _ = identity.CompilePolicy(&v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce}})
		}, []string{"left over, nothing grants", "mine was left over"}},
		{"the cluster's own", func(r *rest) { r.rules.ClusterIdentities = map[string]bool{fold(mine): true} }, []string{"left over, nothing grants", "mine was left over"}},
		{"node not on Azure, and said", func(r *rest) {
			r.nodes[0].Spec.ProviderID = "kind://node"
			r.have([]string{theirs}, nil)
			r.assigned[0].Status = v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: "NodeNotOnAzure"}
		}, nil},
		{"a secret needs no node group", func(r *rest) {
			spec := v1.AzureIdentitySpec{Type: v1.ServicePrincipal, TenantID: tenant, ClientID: otherClient, ClientPassword: v1.SecretReference{Name: "s"}}
			r.identities[0].Spec, r.assigned[0].Spec.AzureIdentityRef.Spec = spec, spec
			r.have([]string{theirs}, nil)
		}, nil},
		{"not on Azure", func(r *rest) { r.have([]string{theirs}, []string{mine}) }, []string{"ledger of pool: mine is not there", "pool: mine is missing"}},
		{"left on Azure", func(r *rest) { r.have([]string{mine, other, theirs}, []string{mine}) }, []string{"pool: other was left over"}},
		{"others' taken away", func(r *rest) { r.have([]string{mine}, []string{mine}) }, []string{"pool: theirs was taken away"}},
		{"others' claimed", func(r *rest) { r.have([]string{mine, theirs}, []string{mine, theirs}) }, []string{"theirs is not MIC's"}},
		{"not in the ledger", func(r *rest) { r.have([]string{mine, theirs}, nil) }, []string{"mine is not in it"}},
		{"others' that pods need", func(r *rest) { r.use(theirs); r.have([]string{theirs}, nil) }, nil},
		{"system-assigned taken away", func(r *rest) { r.azure[scaleSet] = machine{listed: []string{mine, theirs}} }, []string{"system-assigned"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := wellDone()
			c.change(&r)
			compare(t, r.wrong(), c.want)
		})
	}
}

// compare compares complaints with parts of the expected ones.
func compare(t *testing.T, wrong, want []string) {
	t.Helper()
	if len(wrong) != len(want) {
		t.Fatalf("got %q, want %q", wrong, want)
	}
	for i := range want {
		if !strings.Contains(wrong[i], want[i]) {
			t.Errorf("got %q, want %q", wrong[i], want[i])
		}
	}
}

func TestCalls(t *testing.T) {
	begin := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	writes := func(ms ...int) (list []call) {
		for _, ms := range ms {
			list = append(list, call{at: at(ms), group: scaleSet, write: true})
		}
		return list
	}
	removed := func(id string) []call {
		return []call{{at: at(0), group: scaleSet, write: true, removed: []string{id}}}
	}
	reads := func(n int) (list []call) {
		for i := range n {
			list = append(list, call{at: at(1000 * i), group: scaleSet})
		}
		return list
	}
	for _, c := range []struct {
		name    string
		list    []call
		outages []outage
		want    []string
	}{
		{name: "all well", list: writes(0, 1000, 3000, 5010)},
		{name: "others' removed", list: removed(theirs), want: []string{"took away theirs from pool, which others"}},
		{name: "a steady one removed", list: removed(mine), want: []string{"took away mine from pool, which pods needed"}},
		{name: "a storm", list: writes(0, 1, 2, 999), want: []string{"4 requests in a second"}},
		{name: "no storm", list: writes(0, 1, 2, 1000)},
		{name: "reads in vain", list: reads(mostInVain + 1), outages: []outage{{at(-1), at(1_000_000), at(1_000_000)}}, want: []string{"while the API server was away"}},
		{name: "some reads in vain", list: reads(mostInVain), outages: []outage{{at(-1), at(1_000_000), at(1_000_000)}}},
		{name: "reads after all", list: reads(mostInVain + 5), outages: []outage{{at(-1), at(1), at(1)}}},
		{name: "reads while it starts", list: reads(mostInVain + 5), outages: []outage{{at(-1), at(1), at(1_000_000)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			judge := calls{
				list: c.list, outages: c.outages, perSecond: 3,
				isForeign: func(_, id string) bool { return id == theirs },
				steady:    func(_, id string) bool { return id == mine },
			}
			compare(t, judge.wrong(), c.want)
		})
	}
}

// TestHistory checks that the same seed makes the same history, and another seed another one.
func TestHistory(t *testing.T) {
	made := func(seed uint64) (what []string) {
		r := run{seed: seed}
		h := newHistory(r.random("history"))
		for range 500 {
			what = append(what, h.next().what)
		}
		for _, c := range h.goOn() {
			what = append(what, c.what)
		}
		return what
	}
	if diff := cmp.Diff(made(1), made(1)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(made(1), made(2)) {
		t.Error("two seeds make the same history")
	}
}

// TestHappen: a change counts as retried from the first attempt on that may have had an effect.
func TestHappen(t *testing.T) {
	lost, refused := errors.New("no answer"), &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		failures []error
		from     int // the attempt that it counts from; -1: it is not retried
	}{
		"at once":               {nil, -1},
		"answers lost":          {[]error{lost, lost}, 0},
		"refused":               {[]error{refused, refused}, -1},
		"refused and then lost": {[]error{refused, lost, refused}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := run{rig: &rig{t: t}, T: t}
			var attempts []time.Time
			r.happen(change{"a change", func(context.Context, client.Client) error {
				attempts = append(attempts, time.Now())
				if i := len(attempts) - 1; i < len(tt.failures) {
					return tt.failures[i]
				}
				return nil
			}})
			if len(r.retries) != min(tt.from+1, 1) {
				t.Fatalf("retries %+v, want from attempt %d", r.retries, tt.from)
			}
			for _, got := range r.retries {
				if got.began.After(attempts[tt.from]) || tt.from > 0 && got.began.Before(attempts[tt.from-1]) || got.ended.Before(attempts[len(attempts)-1]) {
					t.Errorf("%+v, want from attempt %d of %v", got, tt.from, attempts)
				}
			}
		})
	}
}

func TestMoments(t *testing.T) {
	begin := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	good := wellDone()
	after := func(s int, resource, key string, object any) write {
		return write{began: at(s), ended: at(s), resource: resource, key: key, object: object}
	}
	pod := func(selector string) any { return newPod("ns", "pod", selector, "node") }
	assigned := func(s int, change func(*v1.AzureAssignedIdentity)) write {
		a := good.assigned[0].DeepCopy()
		if change != nil {
			change(a)
		}
		return write{began: at(s), ended: at(s), resource: "azureassignedidentities", key: "ns/assigned", object: a, mic: true}
	}
	enforce := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce}}
	warn := enforce.DeepCopy()
	warn.Spec.Mode = v1.PolicyWarn
	allow := enforce.DeepCopy()
	allow.Spec.Rules = []v1.PolicyRule{{Name: "ns", Namespaces: []string{"ns"}, Identities: []v1.PolicyIdentities{{ResourceIDs: []string{mine}}}}}
	moved := good.identities[0].DeepCopy()
	moved.Spec.ResourceID = other
	const policies, policy, bindings = "azureidentitypolicies", "/" + v1.PolicyName, "azureidentitybindings"
	for _, c := range []struct {
		name    string
		writes  []write
		outages []outage
		retries []retried
		want    []string
	}{
		{name: "given", writes: []write{assigned(50, nil)}},
		{name: "not Assigned", writes: []write{after(1, "pods", "ns/pod", nil), assigned(50, func(a *v1.AzureAssignedIdentity) { a.Status.Status = v1.StateCreated })}},
		{name: "before the pod came", writes: []write{after(1, "pods", "ns/pod", nil), assigned(50, nil), after(51, "pods", "ns/pod", pod("app"))}, want: []string{"pod ns/pod was assigned ns/id (mine), which no binding"}},
		{name: "binding gone long ago", writes: []write{after(10, bindings, "ns/binding", nil), assigned(50, nil)}, want: []string{"which no binding"}},
		{name: "binding gone just now", writes: []write{after(48, bindings, "ns/binding", nil), assigned(50, nil)}},
		{name: "twice, and gone in between", writes: []write{assigned(20, nil), after(30, bindings, "ns/binding", nil), assigned(50, nil)}, want: []string{"12:00:50"}},
		{name: "gone, without an API server to say so", writes: []write{after(40, bindings, "ns/binding", nil), assigned(50, nil)}, outages: []outage{{at(41), at(49), at(49)}}},
		{name: "gone, and the API server took long to start", writes: []write{after(40, bindings, "ns/binding", nil), assigned(50, nil)}, outages: []outage{{at(41), at(42), at(49)}}},
		{name: "gone, and the API server answered before it was ready", writes: []write{after(35, bindings, "ns/binding", nil), assigned(50, nil)}, outages: []outage{{at(41), at(42), at(58)}}, want: []string{"which no binding"}},
		{name: "gone during the first of two outages", writes: []write{after(30, bindings, "ns/binding", nil), assigned(50, nil)}, outages: []outage{{at(29), at(37), at(38)}, {at(41), at(42), at(49)}}},
		{name: "gone well before two outages", writes: []write{after(26, bindings, "ns/binding", nil), assigned(50, nil)}, outages: []outage{{at(29), at(37), at(38)}, {at(41), at(42), at(49)}}, want: []string{"which no binding"}},
		{name: "made, and the answer was lost", writes: []write{
			after(10, bindings, "ns/binding", nil), assigned(50, nil), after(52, bindings, "ns/binding", &good.bindings[0]),
		}, retries: []retried{{at(42), at(53)}}},
		{name: "made later, and another answer was lost", writes: []write{
			after(10, bindings, "ns/binding", nil), assigned(50, nil), after(52, bindings, "ns/binding", &good.bindings[0]),
		}, retries: []retried{{at(42), at(51)}}, want: []string{"which no binding"}},
		{name: "not gone yet", writes: []write{{began: at(44), ended: at(46), resource: bindings, key: "ns/binding"}, assigned(50, nil)}},

		{name: "an API server that was away before", writes: []write{after(40, bindings, "ns/binding", nil), assigned(50, nil)}, outages: []outage{{at(20), at(30), at(30)}}, want: []string{"which no binding"}},
		{name: "another label", writes: []write{after(10, "pods", "ns/pod", pod("other")), assigned(50, nil)}, want: []string{"which no binding"}},
		{name: "another resource ID", writes: []write{after(10, "azureidentities", "ns/id", moved), assigned(50, nil)}, want: []string{"which no binding"}},
		{name: "forbidden", writes: []write{after(10, policies, policy, enforce), assigned(50, nil)}, want: []string{"which no binding and policy"}},
		{name: "heard of one change and not of another", writes: []write{
			after(10, "pods", "ns/pod", nil), after(48, "azureidentities", "ns/id", moved), after(49, "pods", "ns/pod", pod("app")), assigned(50, nil),
		}},
		{name: "forbidden in between", writes: []write{after(10, policies, policy, enforce), after(44, policies, policy, nil), after(45, policies, policy, enforce), assigned(50, nil)}},
		{name: "warned", writes: []write{after(10, policies, policy, warn), assigned(50, nil)}},
		{name: "allowed", writes: []write{after(10, policies, policy, allow), assigned(50, nil)}},
		{name: "client ID of another", writes: []write{assigned(50, func(a *v1.AzureAssignedIdentity) {
			a.Spec.AzureIdentityRef.Spec.ResourceID, a.Spec.AzureIdentityRef.Spec.ClientID = other, operatorClient
		})}, want: []string{"another identity's"}},
		{name: "lost for a moment", writes: []write{assigned(50, nil), assigned(51, func(a *v1.AzureAssignedIdentity) {
			a.Status.Status = v1.StateCreated
		}), assigned(52, nil)}, want: []string{"12:00:51.000: pod ns/pod, which stays, lost"}},
		{name: "refused by Azure", writes: []write{assigned(50, func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec.ResourceID = theirs })}, want: []string{"Azure refuses it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			judge := moments{rules: good.rules, never: map[string]string{fold(theirs): "Azure refuses it"}, outages: c.outages, retries: c.retries, late: 5 * time.Second}
			judge.clients, judge.kept = map[string]string{fold(other): otherClient}, map[types.UID]bool{good.assigned[0].UID: true}
			judge.writes = append([]write{
				after(0, "azureidentities", "ns/id", &good.identities[0]), after(0, bindings, "ns/binding", &good.bindings[0]), after(0, "pods", "ns/pod", pod("app")),
			}, c.writes...)
			compare(t, judge.wrong(), c.want)
		})
	}
}

// TestReadWrite parses lines of the API server's audit log.
func TestReadWrite(t *testing.T) {
	line := func(verb, resource string, code int, response string) []byte {
		return []byte(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","verb":"` + verb + `","user":{"username":"admin"},"objectRef":{"resource":"` + resource + `","namespace":"ns","name":"n"},"responseStatus":{"code":` +
			strconv.Itoa(code) + `},"requestObject":{"kind":"Pod","metadata":{"name":"asked"}},"responseObject":` + response +
			`,"requestReceivedTimestamp":"2026-11-20T12:00:00.5Z","stageTimestamp":"2026-11-20T12:00:01Z"}`)
	}
	const object, status = `{"kind":"Pod","metadata":{"name":"answered"}}`, `{"kind":"Status"}`
	for name, c := range map[string]struct {
		line []byte
		want string // the object's name, "" if it is gone, "-" if the line is irrelevant
	}{
		"created":           {line("create", "pods", 201, object), "answered"},
		"created before":    {line("create", "pods", 409, status), "asked"},
		"a conflict":        {line("update", "pods", 409, status), "-"},
		"refused":           {line("create", "pods", 403, status), "-"},
		"deleted":           {line("delete", "pods", 200, object), ""},
		"was not there":     {line("delete", "azureidentities", 404, status), ""},
		"being deleted":     {line("delete", "pods", 200, `{"kind":"Pod","metadata":{"name":"answered","deletionGracePeriodSeconds":3600}}`), "answered"},
		"of another kind":   {line("update", "configmaps", 200, object), "-"},
		"cut off by a kill": {[]byte(`{"verb":"create","us`), "-"},
		"after one cut off": {append([]byte(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","verb":"create","us`), line("create", "pods", 201, object)...), "answered"},
		"MIC's conflict":    {bytes.Replace(line("create", "azureassignedidentities", 409, status), []byte("admin"), []byte("mic"), 1), "-"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := readWrite(c.line)
			name := "-"
			if ok {
				name = ""
			}
			if pod, is := got.object.(*corev1.Pod); ok && is {
				name = pod.Name
			}
			if name != c.want {
				t.Errorf("got %q (%+v), want %q", name, got, c.want)
			}
			if ok && (got.key != "ns/n" || got.mic || got.ended.Sub(got.began) != time.Second/2) {
				t.Errorf("got %+v", got)
			}
		})
	}
}
