// What MIC's token can write: exactly what MIC writes.

package chart

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/upgrade"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/testenv"
)

// attempt is one write and a part of the message that refuses it, or "" if it is allowed.
type attempt struct {
	write   func() error
	refused string
}

// attempts makes all writes, as dry runs unless specified.
func (c cluster) attempts(t *testing.T, all map[string]attempt) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			// The API server's watches deliver policies and roles after a moment.
			testenv.Succeeds(t, name, func() error {
				err := all[name].write()
				if refused := all[name].refused; (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
					return fmt.Errorf("got %w, want a refusal with %q", err, refused)
				}
				return nil
			})
		})
	}
}

func TestMICWrites(t *testing.T) {
	api := startCluster(t, "")
	api.helm(t, "install", "podid", chartDir, "--create-namespace",
		"--set", "mic.agentTaintAfter=2m", "--set", "federation.limitToNodes=true", "--set", "mic.leaderElection.namespace=kube-system")
	testenv.Create(t, api, node("red"))
	mic := api.micOn(t, "red")
	t.Run("pods", func(t *testing.T) { micPods(t, api, mic) })
	t.Run("nodes", func(t *testing.T) { micNodes(t, api, mic) })
	t.Run("status of identities", func(t *testing.T) { micIdentityStatus(t, api, mic) })
	t.Run("records", func(t *testing.T) { micRecords(t, api, mic) })
	t.Run("brokers", func(t *testing.T) { micBrokers(t, api, mic) })
	t.Run("type upgrade", func(t *testing.T) { micTypeUpgrade(t, api, mic) })
}

// conditionPatch returns the patch of internal/controllers/readiness.
func conditionPatch(t *testing.T, status map[string]any) client.Patch {
	t.Helper()
	return client.RawPatch(types.StrategicMergePatchType, encode(t, map[string]any{"status": status}))
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func micPods(t *testing.T, api cluster, mic client.Client) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "red", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	leaving := pod.DeepCopy()
	leaving.Name, leaving.Finalizers = "leaving", []string{"example.com/hold"}
	testenv.Create(t, api, pod, leaving)
	for _, p := range []*corev1.Pod{pod, leaving} {
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.5", PodIPs: []corev1.PodIP{{IP: "10.244.0.5"}}, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}}
		if err := api.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := api.Delete(t.Context(), leaving); err != nil {
		t.Fatal(err)
	}
	assigned := func(status string) map[string]any {
		return map[string]any{"conditions": []any{map[string]any{"type": v1.PodConditionAssigned, "status": status, "reason": "Assigned"}}}
	}
	if err := mic.Status().Patch(t.Context(), pod.DeepCopy(), conditionPatch(t, assigned("False"))); err != nil {
		t.Fatalf("the condition: %v", err)
	}
	patch := func(who client.Client, on *corev1.Pod, body client.Patch) func() error {
		return func() error { return who.Status().Patch(t.Context(), on.DeepCopy(), body, client.DryRunAll) }
	}
	merge := func(body map[string]any) client.Patch {
		return client.RawPatch(types.MergePatchType, encode(t, body))
	}
	const refused = "nothing of a pod but its condition"
	api.attempts(t, map[string]attempt{
		"the condition again":            {patch(mic, pod, conditionPatch(t, assigned("True"))), ""},
		"the condition of a leaving pod": {patch(mic, leaving, conditionPatch(t, assigned("True"))), ""},
		"the condition goes":             {patch(mic, pod, conditionPatch(t, map[string]any{"conditions": []any{map[string]any{"$patch": "delete", "type": v1.PodConditionAssigned}}})), ""},
		"another condition":              {patch(mic, pod, conditionPatch(t, map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "False"}}})), refused},
		"a new condition":                {patch(mic, pod, conditionPatch(t, map[string]any{"conditions": []any{map[string]any{"type": "example.com/x", "status": "True"}}})), refused},
		"no conditions":                  {patch(mic, pod, merge(map[string]any{"status": map[string]any{"conditions": nil}})), refused},
		"the address":                    {patch(mic, pod, merge(map[string]any{"status": map[string]any{"podIP": "10.244.0.66", "podIPs": []any{map[string]any{"ip": "10.244.0.66"}}}})), refused},
		"the phase":                      {patch(mic, pod, merge(map[string]any{"status": map[string]any{"phase": "Succeeded"}})), refused},
		"a label":                        {patch(mic, pod, merge(map[string]any{"metadata": map[string]any{"labels": map[string]any{v1.BindingLabel: "shop"}}})), refused},
		"an annotation":                  {patch(mic, pod, merge(map[string]any{"metadata": map[string]any{"annotations": map[string]any{"a": "b"}}})), refused},
		"a finalizer":                    {patch(mic, leaving, merge(map[string]any{"metadata": map[string]any{"finalizers": nil}})), refused},
		"not from a pod":                 {patch(api.serviceAccount(t, namespace, "podid-mic"), pod, conditionPatch(t, assigned("True"))), "from within its pod only"},
	})
}

func micNodes(t *testing.T, api cluster, mic client.Client) {
	other := corev1.Taint{Key: "example.com/other", Effect: corev1.TaintEffectNoSchedule}
	ours := corev1.Taint{Key: v1.AgentNotReadyTaint, Effect: corev1.TaintEffectNoSchedule}
	now := metav1.Now()
	testenv.Create(t, api, node("blue", other), node("tainted", ours, other))
	on := func(name string, how func(*corev1.Node)) func() error {
		return func() error { return change(t, mic, node(name), how, client.DryRunAll) }
	}
	put := func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: ours.Key, Effect: ours.Effect, TimeAdded: &now})
	}
	api.attempts(t, map[string]attempt{
		"the taint":         {on("blue", put), ""},
		"the taint is off":  {on("tainted", func(n *corev1.Node) { remove(n, ours.Key) }), "changes no other"},
		"NoExecute":         {on("blue", func(n *corev1.Node) { put(n); n.Spec.Taints[1].Effect = corev1.TaintEffectNoExecute }), "changes no other"},
		"a taint of others": {on("blue", func(n *corev1.Node) { remove(n, other.Key) }), "changes no other"},
		"another taint": {on("blue", func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Effect: "NoSchedule"})
		}), "changes no other"},
		"a label besides":   {on("blue", func(n *corev1.Node) { put(n); n.Labels = map[string]string{"a": "b"} }), "nothing of a node but"},
		"the provider's ID": {on("blue", func(n *corev1.Node) { put(n); n.Spec.ProviderID = "azure:///x" }), "nothing of a node but"},
		"the range of pods": {on("blue", func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.9.0.0/16", []string{"10.9.0.0/16"} }), "nothing of a node but"},
		"cordon":            {on("blue", func(n *corev1.Node) { n.Spec.Unschedulable = true }), "nothing of a node but"},
	})
}

// object parses an object of one of podid's kinds.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	o.SetAPIVersion(v1.GroupVersion.String())
	if o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	return o
}

const principal = "{type: 1, tenantID: contoso.com, clientID: 99999999-9999-9999-9999-999999999999, clientPassword: {name: s, namespace: default}}"

func micIdentityStatus(t *testing.T, api cluster, mic client.Client) {
	id := object(t, "{kind: AzureIdentity, metadata: {name: sp}, spec: "+principal+"}")
	testenv.Create(t, api, id)
	condition := func(kind string) map[string]any {
		return map[string]any{"type": kind, "status": "False", "reason": "Because", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
	}
	patch := func(body map[string]any) func() error {
		return func() error {
			return mic.Status().Patch(t.Context(), id.DeepCopy(), client.RawPatch(types.MergePatchType, encode(t, body)), client.DryRunAll)
		}
	}
	status := func(fields map[string]any) func() error { return patch(map[string]any{"status": fields}) }
	all := map[string]attempt{
		"another condition": {status(map[string]any{"conditions": []any{condition("Ready")}}), "nothing of an identity's status but"},
		"another field":     {status(map[string]any{"availableReplicas": 3}), "nothing of an identity's status but"},
	}
	for _, kind := range []string{v1.ConditionAssignable, v1.ConditionBroker} {
		all["the condition "+kind] = attempt{status(map[string]any{"conditions": []any{condition(kind)}}), ""}
	}
	api.attempts(t, all)
}

func micRecords(t *testing.T, api cluster, mic client.Client) {
	root := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "-"}}
	testenv.Create(t, api, root)
	configMap := func(name string) func() error {
		return func() error {
			return mic.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, client.DryRunAll)
		}
	}
	lease := func(in, name string) func() error {
		return func() error {
			return mic.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: in, Name: name}}, client.DryRunAll)
		}
	}
	api.attempts(t, map[string]attempt{
		"the record of the type upgrade": {configMap("aad-pod-identity-config"), ""},
		"a ledger":                       {configMap("aad-pod-identity-config-0123456789"), ""},
		"a ConfigMap of another":         {configMap("settings"), "and no other"},
		"another's ConfigMap changed": {func() error {
			changed := root.DeepCopy()
			changed.Data["ca.crt"] = "mallory's"
			return mic.Update(t.Context(), changed, client.DryRunAll)
		}, "and no other"},
		"another's ConfigMap deleted": {func() error { return mic.Delete(t.Context(), root.DeepCopy(), client.DryRunAll) }, "and no other"},
		"the Lease":                   {lease("kube-system", "aad-pod-identity-mic"), ""},
		"a Lease of another":          {lease("kube-system", "cluster-autoscaler"), "and no other"},
	})
}

func micBrokers(t *testing.T, api cluster, mic client.Client) {
	account := federation.Account(&v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}, brokers, "shop.web")
	if err := mic.Create(t.Context(), account); err != nil {
		t.Fatalf("a broker: %v", err)
	}
	foreign := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "foreign"}}
	testenv.Create(t, api, foreign)
	create := func(object client.Object) func() error {
		return func() error {
			return mic.Create(t.Context(), object.DeepCopyObject().(client.Object), client.DryRunAll)
		}
	}
	broker := func(how func(*corev1.ServiceAccount)) func() error {
		other := federation.Account(&v1.AzureIdentity{}, brokers, "shop.other")
		how(other)
		return create(other)
	}
	role := func(name string, rules ...rbacv1.PolicyRule) func() error {
		return create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: name}, Rules: rules})
	}
	use := rbacv1.PolicyRule{APIGroups: []string{"aadpodidentity.k8s.io"}, Resources: []string{"brokers"}, ResourceNames: []string{"shop.web"}, Verbs: []string{"use"}}
	binding := func(name, to, subject string) func() error {
		return create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: to},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: brokers, Name: subject}},
		})
	}
	if err := mic.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "podid:node:red"}, Rules: []rbacv1.PolicyRule{use}}); err != nil {
		t.Fatalf("the Role of a node: %v", err)
	}
	api.attempts(t, map[string]attempt{
		"a broker goes": {func() error { return mic.Delete(t.Context(), account.DeepCopy(), client.DryRunAll) }, ""},
		"another's ServiceAccount goes": {
			func() error { return mic.Delete(t.Context(), foreign.DeepCopy(), client.DryRunAll) }, "with the label app.kubernetes.io/managed-by",
		},
		"no label":          {broker(func(a *corev1.ServiceAccount) { a.Labels = nil }), "with the label app.kubernetes.io/managed-by"},
		"a name of another": {broker(func(a *corev1.ServiceAccount) { a.Name = "builder" }), "a broker is named"},
		"a secret":          {broker(func(a *corev1.ServiceAccount) { a.Secrets = []corev1.ObjectReference{{Name: "s"}} }), "a broker is named"},
		"mounted":           {broker(func(a *corev1.ServiceAccount) { a.AutomountServiceAccountToken = new(true) }), "a broker is named"},
		"an annotation":     {broker(func(a *corev1.ServiceAccount) { a.Annotations["azure.workload.identity/client-id"] = "x" }), "a broker is named"},
		"a node's Role":     {role("podid:node:blue", use), ""},
		"another Role":      {role("helper", use), "MIC keeps the Roles"},
		"a Role with more": {
			role("podid:node:blue", use, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"delete"}}), "use brokers and nothing else",
		},
		"NMI's Role goes": {
			func() error {
				return mic.Delete(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "podid-nmi"}}, client.DryRunAll)
			}, "MIC keeps the Roles",
		},
		"a node's RoleBinding": {binding("podid:node:red", "podid:node:red", "red"), ""},
		"for another node":     {binding("podid:node:red", "podid:node:red", "blue"), "called as the node"},
		"of MIC's own Role":    {binding("podid:node:red", "podid-mic", "red"), "called as the node"},
	})
}

// oldIdentity uses both spellings from before v1.6.
const oldIdentity = `{kind: AzureIdentity, metadata: {name: old}, spec: {type: 0, Type: 1, tenantid: contoso.com, adEndpoint: "",
  ClientID: 99999999-9999-9999-9999-999999999999, ClientPassword: {Name: s, Namespace: default}}}`

func micTypeUpgrade(t *testing.T, api cluster, mic client.Client) {
	withoutRules(t, api, "azureidentities")
	withoutRules(t, api, "azureidentitybindings")
	const binding = "{kind: AzureIdentityBinding, metadata: {name: old}, spec: {AzureIdentity: old, selector: '', Selector: shop}}"
	for _, text := range []string{oldIdentity, binding} {
		testenv.Succeeds(t, "an object of before v1.6", func() error { // the API server's handlers learn of the schema
			o := object(t, text)
			_ = api.Delete(t.Context(), o.DeepCopy())
			if err := api.Create(t.Context(), o); err != nil {
				return err
			}
			if spec := o.Object["spec"].(map[string]any); spec["ClientID"] == nil && spec["AzureIdentity"] == nil || spec["ClientPassword"] != nil && len(spec["ClientPassword"].(map[string]any)) != 2 {
				return fmt.Errorf("the API server drops fields: %v", spec)
			}
			return nil
		})
	}
	testenv.Create(t, api, object(t, "{kind: AzureIdentity, metadata: {name: new}, spec: "+principal+"}"),
		object(t, "{kind: AzureIdentityBinding, metadata: {name: new}, spec: {azureIdentity: new, selector: shop}}"))
	write := func(kind, name string, how func(spec map[string]any)) func() error {
		return func() error {
			o := object(t, "{kind: "+kind+", metadata: {name: "+name+"}}")
			if err := mic.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			how(o.Object["spec"].(map[string]any))
			return mic.Update(t.Context(), o, client.DryRunAll)
		}
	}
	set := func(key string, value any) func(map[string]any) {
		return func(spec map[string]any) { spec[key] = value }
	}
	move := func(from, to string) func(map[string]any) {
		return func(spec map[string]any) { spec[to] = spec[from]; delete(spec, from) }
	}
	const values, secret = "spelled as before v1.6, and changes no value", "fields of clientPassword"
	api.attempts(t, map[string]attempt{
		"nothing":                    {write("AzureIdentity", "new", func(map[string]any) {}), ""},
		"the endpoint":               {write("AzureIdentity", "new", set("adEndpoint", "https://evil.example")), values},
		"the endpoint of an old one": {write("AzureIdentity", "old", set("adEndpoint", "https://evil.example")), values},
		"under an old name":          {write("AzureIdentity", "new", set("adendpoint", "https://evil.example")), values},
		"another value on the way":   {write("AzureIdentity", "old", func(spec map[string]any) { move("ClientID", "clientID")(spec); spec["clientID"] = "x" }), values},
		"a field into another":       {write("AzureIdentity", "old", move("tenantid", "adEndpoint")), values},
		"a field goes":               {write("AzureIdentity", "old", func(spec map[string]any) { delete(spec, "ClientID") }), values},
		"a field of today goes":      {write("AzureIdentity", "new", func(spec map[string]any) { delete(spec, "tenantID") }), values},
		"a field gets an old name":   {write("AzureIdentity", "new", move("clientID", "clientid")), values},
		"another secret":             {write("AzureIdentity", "new", set("clientPassword", map[string]any{"name": "t", "namespace": "default"})), secret},
		"the secret of another namespace": {write("AzureIdentity", "old", func(spec map[string]any) {
			delete(spec, "ClientPassword")
			spec["clientPassword"] = map[string]any{"name": "s", "namespace": "kube-system"}
		}), secret},
		"the secret's namespace goes": {write("AzureIdentity", "old", func(spec map[string]any) {
			delete(spec, "ClientPassword")
			spec["clientPassword"] = map[string]any{"name": "s"}
		}), secret},
		"a binding's identity": {write("AzureIdentityBinding", "new", set("azureIdentity", "payments")), values},
		"a binding's selector": {write("AzureIdentityBinding", "new", set("selector", "mallory")), values},
		"a label": {func() error {
			o := object(t, "{kind: AzureIdentity, metadata: {name: new}}")
			if err := mic.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			o.SetAnnotations(map[string]string{"aadpodidentity.k8s.io/allowed-namespaces": "*"})
			return mic.Update(t.Context(), o, client.DryRunAll)
		}, "nothing of an object's metadata"},
	})
	micUpgrades(t, api, mic)
}

// micUpgrades: MIC's own code has the permissions that it needs, and loses them with the next helm
// upgrade.
func micUpgrades(t *testing.T, api cluster, mic client.Client) {
	u := upgrade.NewController(mic, mic, upgrade.Settings{
		Enabled: true, Namespace: namespace, ConfigMap: "aad-pod-identity-config", Key: "type-upgrade-status", Version: "test",
	})
	if changed, err := u.Run(t.Context()); err != nil || changed != 2 {
		t.Fatalf("upgraded %d: %v", changed, err)
	}
	for kind, want := range map[string]map[string]any{
		"AzureIdentity":        {"type": int64(1), "tenantID": "contoso.com", "clientID": "99999999-9999-9999-9999-999999999999"},
		"AzureIdentityBinding": {"azureIdentity": "old", "selector": "shop"},
	} {
		o := object(t, "{kind: "+kind+", metadata: {name: old}}")
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got := o.Object["spec"].(map[string]any)[key]; got != value {
				t.Errorf("%s: %s is %v, want %v", kind, key, got, value)
			}
		}
	}
	api.helm(t, "upgrade", "podid", chartDir)
	testenv.Succeeds(t, "the upgrade is over", func() error {
		o := object(t, "{kind: AzureIdentity, metadata: {name: new}}")
		if err := mic.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		if err := mic.Update(t.Context(), o, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "cannot update resource") {
			return fmt.Errorf("after the upgrade was recorded: got %w", err)
		}
		return nil
	})
}

// withoutRules lets a kind have any field, as objects from before v1.6 are older than its schema.
func withoutRules(t *testing.T, api cluster, resource string) {
	t.Helper()
	var crd unstructured.Unstructured
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := api.Get(t.Context(), client.ObjectKey{Name: resource + ".aadpodidentity.k8s.io"}, &crd); err != nil {
		t.Fatal(err)
	}
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	versions[0].(map[string]any)["schema"] = map[string]any{"openAPIV3Schema": runtime.DeepCopyJSON(open)}
	if err := unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions"); err != nil {
		t.Fatal(err)
	}
	if err := api.Update(t.Context(), &crd); err != nil {
		t.Fatal(err)
	}
}
