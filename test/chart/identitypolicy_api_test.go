// What the AzureIdentityPolicy forbids is refused at kubectl apply, by the same rules as at each
// use.

package chart

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/testenv"
)

const (
	guidA    = "aaaaaaaa-1111-2222-3333-444444444444"
	guidB    = "bbbbbbbb-1111-2222-3333-444444444444"
	idPrefix = "/subscriptions/" + guidA + "/resourceGroups/Shop.(eu)/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
)

// policyCase is an identity in a namespace and the rules about it. identity.Policy defines the
// right result.
type policyCase struct {
	namespace string
	spec      v1.AzureIdentitySpec
	rules     []v1.PolicyRule
}

func policyCases() map[string]policyCase {
	type entry = v1.PolicyIdentities
	managed := v1.AzureIdentitySpec{ResourceID: idPrefix + "one", ClientID: guidA}
	principal := v1.AzureIdentitySpec{Type: v1.ServicePrincipal, TenantID: "contoso.com", ClientID: guidB, ClientPassword: v1.SecretReference{Name: "s"}}
	with := func(spec v1.AzureIdentitySpec, change func(*v1.AzureIdentitySpec)) v1.AzureIdentitySpec {
		change(&spec)
		return spec
	}
	in := func(spec v1.AzureIdentitySpec, entries ...entry) policyCase {
		return policyCase{"red", spec, []v1.PolicyRule{{Name: "r", Namespaces: []string{"blue", "red"}, Identities: entries}}}
	}
	selected := func(selector metav1.LabelSelector) policyCase {
		return policyCase{"red", managed, []v1.PolicyRule{{Name: "s", NamespaceSelector: &selector, Identities: []entry{{}}}}}
	}
	expression := func(key string, operator metav1.LabelSelectorOperator, values ...string) policyCase {
		return selected(metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}})
	}
	resource := func(patterns ...string) policyCase { return in(managed, entry{ResourceIDs: patterns}) }
	endpoint := func(url string) policyCase {
		return in(with(principal, func(s *v1.AzureIdentitySpec) { s.ADEndpoint = url }), entry{Authorities: []string{"login.microsoftonline.com"}})
	}
	auxiliary := func(tenants ...string) policyCase {
		return in(with(principal, func(s *v1.AzureIdentitySpec) { s.AuxiliaryTenantIDs = tenants }), entry{TenantIDs: []string{"Contoso.com", guidA}})
	}
	return map[string]policyCase{
		"no rules":               {"red", managed, nil},
		"everything":             in(managed, entry{}),
		"another namespace":      {"red", managed, []v1.PolicyRule{{Name: "r", Namespaces: []string{"re", "redder"}, Identities: []entry{{}}}}},
		"one ServiceAccount":     {"red", managed, []v1.PolicyRule{{Name: "r", Namespaces: []string{"red"}, ServiceAccounts: []string{"web"}, Identities: []entry{{}}}}},
		"plain IMDS alone":       {"red", managed, []v1.PolicyRule{{Name: "r", Namespaces: []string{"red"}, PlainIMDS: true}}},
		"second rule":            {"red", managed, []v1.PolicyRule{{Name: "a", Namespaces: []string{"blue"}, Identities: []entry{{}}}, {Name: "b", Namespaces: []string{"red"}, Identities: []entry{{Types: []v1.IdentityType{1}}, {Types: []v1.IdentityType{0}}}}}},
		"type":                   in(managed, entry{Types: []v1.IdentityType{0, 3}}),
		"another type":           in(principal, entry{Types: []v1.IdentityType{0, 3}}),
		"resource ID":            resource(idPrefix+"two", idPrefix+"one"),
		"case":                   resource(strings.ToUpper(idPrefix) + "ONE"),
		"another resource ID":    resource(idPrefix + "two"),
		"longer":                 resource(idPrefix + "on"),
		"wildcard":               resource(idPrefix + "*"),
		"wildcard in between":    resource(idPrefix + "o*e"),
		"wildcard for nothing":   resource(idPrefix + "one*"),
		"wildcards":              resource("/subscriptions/*/resourceGroups/*.(*)/providers/Microsoft.ManagedIdentity/userAssignedIdentities/*n*"),
		"too much between":       resource(idPrefix + "*x*"),
		"not at the end":         resource(idPrefix + "*n"),
		"not at the start":       resource(idPrefix + "n*"),
		"a dot is a dot":         in(with(managed, func(s *v1.AzureIdentitySpec) { s.ResourceID = strings.Replace(s.ResourceID, "Shop.", "Shopx", 1) }), entry{ResourceIDs: []string{idPrefix + "*"}}),
		"parentheses":            in(with(managed, func(s *v1.AzureIdentitySpec) { s.ResourceID = strings.Replace(s.ResourceID, "(eu)", "eu", 1) }), entry{ResourceIDs: []string{idPrefix + "*"}}),
		"overlap":                in(with(managed, func(s *v1.AzureIdentitySpec) { s.ResourceID = idPrefix + "aba" }), entry{ResourceIDs: []string{idPrefix + "ab*ba"}}),
		"resource ID of type 3":  in(v1.AzureIdentitySpec{Type: v1.Federated, TenantID: "contoso.com", ClientID: guidB, ResourceID: idPrefix + "one"}, entry{ResourceIDs: []string{idPrefix + "*"}}),
		"client ID":              in(managed, entry{ClientIDs: []string{guidB, strings.ToUpper(guidA)}}),
		"another client ID":      in(managed, entry{ClientIDs: []string{guidB}}),
		"no client ID":           in(with(managed, func(s *v1.AzureIdentitySpec) { s.ClientID = "" }), entry{ClientIDs: []string{guidA}}),
		"both, one matches":      in(managed, entry{ClientIDs: []string{guidB}, ResourceIDs: []string{idPrefix + "*"}}),
		"tenant":                 auxiliary(),
		"tenants":                auxiliary("contoso.com", strings.ToUpper(guidA)),
		"one tenant too many":    auxiliary(guidA, guidB),
		"another tenant":         in(principal, entry{TenantIDs: []string{guidA}}),
		"tenant of type 0":       in(managed, entry{TenantIDs: []string{"contoso.com"}}),
		"authority":              endpoint("https://LOGIN.microsoftonline.com/"),
		"authority with a port":  endpoint("https://login.microsoftonline.com:443/"),
		"no authority":           endpoint(""),
		"another authority":      endpoint("https://login.microsoftonline.com.evil.example/"),
		"authority as user name": endpoint("https://login.microsoftonline.com:443@evil.example/"),
		"authority of type 0":    in(managed, entry{Authorities: []string{"login.microsoftonline.com"}}),
		"empty selector":         selected(metav1.LabelSelector{}),
		"label":                  selected(metav1.LabelSelector{MatchLabels: map[string]string{"team": "red", "example.com/tier": "1"}}),
		"another label":          selected(metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}),
		"no such label":          selected(metav1.LabelSelector{MatchLabels: map[string]string{"other": "red"}}),
		"in":                     expression("team", "In", "blue", "red"),
		"not among them":         expression("team", "In", "blue"),
		"in, without the label":  expression("other", "In", "red"),
		"not in":                 expression("team", "NotIn", "blue"),
		"not in, but is":         expression("team", "NotIn", "red"),
		"not in, no label":       expression("other", "NotIn", "red"),
		"exists":                 expression("team", "Exists"),
		"exists, but not":        expression("other", "Exists"),
		"does not exist":         expression("other", "DoesNotExist"),
		"does not exist, but":    expression("team", "DoesNotExist"),
		"in nothing":             expression("team", "In"),
		"not in nothing":         expression("other", "NotIn"),
		"exists with a value":    expression("team", "Exists", "red"),
		"absent with a value":    expression("other", "DoesNotExist", "red"),
		"unknown operator":       expression("team", "Gt", "1"),
		"not a key":              expression("a b", "DoesNotExist"),
		"not a value":            expression("team", "In", "red", "a b"),
		"both kinds of terms":    selected(metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}, MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "example.com/tier", Operator: "Exists"}}}),
		"one term of two":        selected(metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}, MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "other", Operator: "Exists"}}}),
	}
}

func TestIdentityPolicy(t *testing.T) {
	api := startCluster(t, "")
	api.helm(t, "install", "podid", chartDir, "--create-namespace", "--set", "identityPolicy.mode=enforce")
	strictly(t, api)
	labels := map[string]string{"team": "red", "example.com/tier": "1", corev1.LabelMetadataName: "red"}
	for _, name := range []string{"red", "blue", "probe"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name == "red" {
			ns.Labels = labels
		}
		testenv.Create(t, api, ns)
	}
	testenv.Succeeds(t, "the policy", func() error { // admission policies take effect several seconds after their creation
		err := api.Create(t.Context(), object(t, "{kind: AzureIdentity, metadata: {name: probe, namespace: probe}, spec: "+principal+"}"), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "no rule of AzureIdentityPolicy") {
			return fmt.Errorf("not refused by the policy: %v", err) //nolint:errorlint // err may be nil
		}
		return nil
	})
	allowed := map[bool]int{}
	cases := policyCases()
	for i, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			c := cases[name]
			p := api.policy(t, v1.PolicyEnforce, i, c.rules...)
			compiled, _ := identity.CompilePolicy(p) // an invalid selector selects nothing
			id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "x"}, Spec: c.spec}
			want := compiled.AllowsInNamespace(id, labels)
			allowed[want]++
			err := api.Create(t.Context(), unstructuredOf(t, "AzureIdentity", id), client.DryRunAll)
			if err != nil && !strings.Contains(err.Error(), "no rule of AzureIdentityPolicy default allows this identity in namespace red") {
				t.Fatal(err)
			}
			if (err == nil) != want {
				t.Errorf("the API server allows it: %t, the programs: %t", err == nil, want)
			}
		})
	}
	if allowed[true] < 15 || allowed[false] < 15 {
		t.Errorf("%d cases are allowed and %d refused", allowed[true], allowed[false])
	}
	t.Run("modes", func(t *testing.T) { policyModes(t, api) })
	t.Run("exceptions", func(t *testing.T) { policyExceptions(t, api) })
}

func policyModes(t *testing.T, api cluster) {
	const text = "{kind: AzureIdentity, metadata: {name: kept, namespace: red}, spec: " + principal + "}"
	api.policy(t, v1.PolicyOff, 1000)
	kept := object(t, text)
	if err := api.Create(t.Context(), kept); err != nil {
		t.Fatalf("off: %v", err)
	}
	change := func(who client.Client, how func(*unstructured.Unstructured)) error {
		changed := kept.DeepCopy()
		how(changed)
		return who.Update(t.Context(), changed, client.DryRunAll)
	}
	label := func(o *unstructured.Unstructured) { o.SetLabels(map[string]string{"a": "b"}) }
	spec := func(o *unstructured.Unstructured) {
		_ = unstructured.SetNestedField(o.Object, "fabrikam.com", "spec", "tenantID")
	}
	var heard warnings
	config := api.config(t)
	config.WarningHandlerWithContext = &heard
	listening := testenv.Client(t, config)

	api.policy(t, v1.PolicyWarn, 1001)
	testenv.Succeeds(t, "the mode warn", func() error { // the API server may still apply the mode off
		if err := change(listening, spec); err != nil || !strings.Contains(fmt.Sprint(heard), "no rule of AzureIdentityPolicy default") {
			return fmt.Errorf("warn: got %w, warnings %v", err, heard)
		}
		return nil
	})
	heard = nil
	if err := change(listening, label); err != nil || len(heard) > 0 {
		t.Errorf("warn, a label: %v, warnings %v", err, heard)
	}

	api.policy(t, v1.PolicyEnforce, 1002)
	if err := change(api, spec); err == nil || !strings.Contains(err.Error(), "no rule of AzureIdentityPolicy default") {
		t.Errorf("enforce: %v", err)
	}
	if err := change(api, label); err != nil {
		t.Errorf("enforce, a label of what was there: %v", err)
	}
	if err := api.Delete(t.Context(), kept.DeepCopy(), client.DryRunAll); err != nil {
		t.Errorf("enforce, deleted: %v", err)
	}
}

// warnings collects the warnings of the API server.
type warnings []string

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	*w = append(*w, text)
}

func policyExceptions(t *testing.T, api cluster) {
	exception := func(in string) error {
		return api.Create(t.Context(), object(t, "{kind: AzurePodIdentityException, metadata: {name: x, namespace: "+in+"}, spec: {podLabels: {a: b}}}"), client.DryRunAll)
	}
	api.policy(t, v1.PolicyEnforce, 1003, v1.PolicyRule{Name: "r", Namespaces: []string{"red"}, PlainIMDS: true},
		v1.PolicyRule{Name: "s", Namespaces: []string{"blue"}, Identities: []v1.PolicyIdentities{{}}})
	if err := exception("red"); err != nil {
		t.Errorf("a namespace with plain IMDS: %v", err)
	}
	if err := exception("blue"); err == nil || !strings.Contains(err.Error(), "allows exceptions (plainIMDS) in namespace blue") {
		t.Errorf("a namespace without plain IMDS: %v", err)
	}
	// The chart provides rules for its own exceptions.
	api.helm(t, "upgrade", "podid", chartDir, "--set", "identityPolicy.mode=enforce", "--force-conflicts")
	p := &unstructured.Unstructured{}
	p.SetGroupVersionKind(v1.GroupVersion.WithKind("AzureIdentityPolicy"))
	if err := api.Get(t.Context(), client.ObjectKey{Name: v1.PolicyName}, p); err != nil {
		t.Fatal(err)
	}
	var typed v1.AzureIdentityPolicy
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(p.Object, &typed); err != nil {
		t.Fatal(err)
	}
	compiled, err := identity.CompilePolicy(&typed)
	if err != nil {
		t.Fatal(err)
	}
	rules := identity.Rules{Policy: compiled}
	mic := identity.Pod{Namespace: namespace, Name: "mic", ServiceAccount: "podid-mic", Labels: map[string]string{"podid.io/component": "podid-mic"}}
	own := []*v1.AzurePodIdentityException{{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "podid-mic"}, Spec: v1.AzurePodIdentityExceptionSpec{PodLabels: mic.Labels}}}
	if e, refusal := rules.PlainIMDS(mic, own); e == nil {
		t.Errorf("MIC has no plain IMDS: %v", refusal)
	}
	mic.ServiceAccount = "default"
	if e, _ := rules.PlainIMDS(mic, own); e != nil {
		t.Error("another ServiceAccount has MIC's plain IMDS")
	}
}

// policy writes the AzureIdentityPolicy and waits until the API server applies it. The number must
// be new.
func (c cluster) policy(t *testing.T, mode v1.PolicyMode, number int, rules ...v1.PolicyRule) *v1.AzureIdentityPolicy {
	t.Helper()
	marker := fmt.Sprintf("00000000-0000-0000-0000-%012d", number)
	p := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce}}
	write := func(rules ...v1.PolicyRule) {
		p.Spec.Rules = rules
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(v1.GroupVersion.WithKind("AzureIdentityPolicy"))
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), have); err != nil {
			t.Fatal(err)
		}
		want := unstructuredOf(t, "AzureIdentityPolicy", p)
		have.Object["spec"] = want.Object["spec"]
		if err := c.Update(t.Context(), have); err != nil {
			t.Fatal(err)
		}
	}
	probe := func() error {
		id := object(t, "{kind: AzureIdentity, metadata: {name: probe, namespace: probe}, spec: {type: 3, tenantID: contoso.com, clientID: "+marker+"}}")
		return c.Create(t.Context(), id, client.DryRunAll)
	}
	p.Spec.Mode = mode
	write(append(slices.Clone(rules), v1.PolicyRule{Name: "probe", Namespaces: []string{"probe"}, Identities: []v1.PolicyIdentities{{ClientIDs: []string{marker}}}})...)
	testenv.Succeeds(t, "the policy applies", func() error {
		if mode == v1.PolicyEnforce {
			return probe()
		}
		// A probe that only an enforced policy refuses.
		return c.Create(t.Context(), object(t, "{kind: AzureIdentity, metadata: {name: probe, namespace: probe}, spec: "+principal+"}"), client.DryRunAll)
	})
	p.Spec.Rules = rules
	return p
}

// strictly makes the policies refuse what they cannot evaluate. By default that would count as
// allowed.
func strictly(t *testing.T, api cluster) {
	t.Helper()
	for _, p := range list(t, api, schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"}) {
		if err := unstructured.SetNestedField(p.Object, "Fail", "spec", "failurePolicy"); err != nil {
			t.Fatal(err)
		}
		if err := api.Update(t.Context(), &p); err != nil {
			t.Fatal(err)
		}
	}
}

func unstructuredOf(t *testing.T, kind string, from runtime.Object) *unstructured.Unstructured {
	t.Helper()
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(from)
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: raw}
	o.SetGroupVersionKind(v1.GroupVersion.WithKind(kind))
	unstructured.RemoveNestedField(raw, "status")
	return o
}
