package identity_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

const kubelet = "7c6d0f7e-0d0b-4a3f-9a51-0f4d3a1b2c3d"

// policy is an AzureIdentityPolicy with the rules, compiled.
func policy(t *testing.T, mode v1.PolicyMode, rules ...v1.PolicyRule) *identity.Policy {
	t.Helper()
	p, err := identity.CompilePolicy(&v1.AzureIdentityPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: mode, Rules: rules},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func forNamespaces(namespaces []string, entries ...v1.PolicyIdentities) v1.PolicyRule {
	return v1.PolicyRule{Name: "r", Namespaces: namespaces, Identities: entries}
}

func selecting(labels map[string]string, entries ...v1.PolicyIdentities) v1.PolicyRule {
	return v1.PolicyRule{Name: "s", NamespaceSelector: &metav1.LabelSelector{MatchLabels: labels}, Identities: entries}
}

// ask returns the result of the rules for a pod of namespace a, with one binding to one identity.
func ask(r identity.Rules, pod identity.Pod, i *v1.AzureIdentity) (*identity.Grant, *reason.Refusal) {
	grants, refusals := r.Grants(pod, []*v1.AzureIdentityBinding{bind(i.Namespace, "b", "demo", i.Name, 0)}, lookup(i))
	switch {
	case len(grants) == 1 && len(refusals) == 0:
		return &grants[0], nil
	case len(grants) == 0 && len(refusals) == 1:
		return nil, refusals[0]
	default:
		panic(fmt.Sprintf("%d grants and %d refusals for one binding", len(grants), len(refusals)))
	}
}

func TestPolicyMatches(t *testing.T) {
	type entry = v1.PolicyIdentities
	all := entry{}
	mine := entry{ResourceIDs: []string{idPrefix + "*"}}
	principalOf := func(change func(*v1.AzureIdentitySpec)) *v1.AzureIdentity {
		s := principal(v1.ServicePrincipal)
		s.TenantID, s.ClientID = guidA, guidB
		change(&s)
		return id("a", "one", spec(s))
	}
	asIs := func(*v1.AzureIdentitySpec) {}
	absent := v1.PolicyRule{Name: "s", Identities: []entry{all}, NamespaceSelector: &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tenant", Operator: metav1.LabelSelectorOpDoesNotExist}},
	}}
	for _, tt := range []struct {
		name    string
		rules   []v1.PolicyRule
		pod     func(*identity.Pod)
		id      *v1.AzureIdentity
		allowed bool
	}{
		{"no rules", nil, nil, id("a", "one"), false},
		{"everything in the namespace", []v1.PolicyRule{forNamespaces([]string{"b", "a"}, all)}, nil, id("a", "one"), true},
		{"another namespace", []v1.PolicyRule{forNamespaces([]string{"b"}, all)}, nil, id("a", "one"), false},
		{"no identities", []v1.PolicyRule{forNamespaces([]string{"a"})}, nil, id("a", "one"), false},
		{"resource ID with wildcard", []v1.PolicyRule{forNamespaces([]string{"a"}, mine)}, nil, id("a", "one"), true},
		{"case of the resource ID", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{ResourceIDs: []string{strings.ToUpper(idPrefix + "*")}})}, nil, id("a", "one"), true},
		{"wildcard crosses no slash", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{ResourceIDs: []string{"/subscriptions/*/userAssignedIdentities/*"}})}, nil, id("a", "one"), false},
		{"another group", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{ResourceIDs: []string{strings.Replace(idPrefix, "/resourceGroups/", "/resourceGroups/x", 1) + "*"}})}, nil, id("a", "one"), false},
		{"resource ID of another type", []v1.PolicyRule{forNamespaces([]string{"a"}, mine)}, nil, principalOf(func(s *v1.AzureIdentitySpec) { s.ResourceID = idPrefix + "one" }), false},
		{"client ID", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{ClientIDs: []string{strings.ToUpper(guidB)}})}, nil, principalOf(asIs), true},
		{"another client ID", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{ClientIDs: []string{guidA}})}, nil, principalOf(asIs), false},
		{
			"no client ID in the object",
			[]v1.PolicyRule{forNamespaces([]string{"a"}, entry{ClientIDs: []string{""}})},
			nil,
			id("a", "one", spec(v1.AzureIdentitySpec{ResourceID: idPrefix + "one"})), false,
		},
		{"client ID and resource ID must both match", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{ResourceIDs: mine.ResourceIDs, ClientIDs: []string{kubelet}})}, nil, id("a", "one"), false},
		{"tenant", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{TenantIDs: []string{guidA}})}, nil, principalOf(asIs), true},
		{
			"tenant, auxiliary one not allowed",
			[]v1.PolicyRule{forNamespaces([]string{"a"}, entry{TenantIDs: []string{guidA}})},
			nil,
			principalOf(func(s *v1.AzureIdentitySpec) { s.AuxiliaryTenantIDs = []string{guidA, guidB} }), false,
		},
		{
			"tenant, all allowed",
			[]v1.PolicyRule{forNamespaces([]string{"a"}, entry{TenantIDs: []string{guidA, guidB}})},
			nil,
			principalOf(func(s *v1.AzureIdentitySpec) { s.AuxiliaryTenantIDs = []string{guidA, guidB} }), true,
		},
		{"tenant of a managed identity", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{TenantIDs: []string{guidA}})}, nil, id("a", "one"), false},
		{"type", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{Types: []v1.IdentityType{0, 3}})}, nil, id("a", "one"), true},
		{"another type", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{Types: []v1.IdentityType{0, 3}})}, nil, principalOf(asIs), false},
		{"authority, none named", []v1.PolicyRule{forNamespaces([]string{"a"}, entry{Authorities: []string{"login.microsoftonline.com"}})}, nil, principalOf(asIs), true},
		{
			"authority",
			[]v1.PolicyRule{forNamespaces([]string{"a"}, entry{Authorities: []string{"login.microsoftonline.com"}})},
			nil,
			principalOf(func(s *v1.AzureIdentitySpec) { s.ADEndpoint = "https://LOGIN.microsoftonline.com:443/" }), true,
		},
		{
			"authority of the attacker",
			[]v1.PolicyRule{forNamespaces([]string{"a"}, entry{Authorities: []string{"login.microsoftonline.com"}})},
			nil,
			principalOf(func(s *v1.AzureIdentitySpec) { s.ADEndpoint = "https://login.microsoftonline.com.evil.example/" }), false,
		},
		{
			"authority as user name",
			[]v1.PolicyRule{forNamespaces([]string{"a"}, entry{Authorities: []string{"login.microsoftonline.com"}})},
			nil,
			principalOf(func(s *v1.AzureIdentitySpec) { s.ADEndpoint = "https://login.microsoftonline.com:443@evil.example/" }), false,
		},
		{"selected by label", []v1.PolicyRule{selecting(map[string]string{"team": "a"}, mine)}, func(p *identity.Pod) { p.NamespaceLabels = map[string]string{"team": "a"} }, id("a", "one"), true},
		{"label not known", []v1.PolicyRule{selecting(map[string]string{"team": "a"}, mine)}, nil, id("a", "one"), false},
		{"label of the pod", []v1.PolicyRule{selecting(map[string]string{v1.BindingLabel: "demo"}, mine)}, nil, id("a", "one"), false},
		{"empty selector", []v1.PolicyRule{selecting(nil, mine)}, func(p *identity.Pod) { p.NamespaceLabels = map[string]string{} }, id("a", "one"), true},
		{"absent label, labels not known", []v1.PolicyRule{absent}, nil, id("a", "one"), false},
		{"absent label", []v1.PolicyRule{absent}, func(p *identity.Pod) { p.NamespaceLabels = map[string]string{"team": "a"} }, id("a", "one"), true},
		{"label is there", []v1.PolicyRule{absent}, func(p *identity.Pod) { p.NamespaceLabels = map[string]string{"tenant": ""} }, id("a", "one"), false},
		{
			"ServiceAccount",
			[]v1.PolicyRule{{Name: "r", Namespaces: []string{"a"}, ServiceAccounts: []string{"api"}, Identities: []entry{all}}},
			func(p *identity.Pod) { p.ServiceAccount = "api" }, id("a", "one"), true,
		},
		{
			"another ServiceAccount",
			[]v1.PolicyRule{{Name: "r", Namespaces: []string{"a"}, ServiceAccounts: []string{"api"}, Identities: []entry{all}}},
			func(p *identity.Pod) { p.ServiceAccount = "API" }, id("a", "one"), false,
		},
		{"default ServiceAccount", []v1.PolicyRule{{Name: "r", Namespaces: []string{"a"}, ServiceAccounts: []string{"default"}, Identities: []entry{all}}}, nil, id("a", "one"), true},
		{"second rule", []v1.PolicyRule{forNamespaces([]string{"b"}, all), forNamespaces([]string{"a"}, mine)}, nil, id("a", "one"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := pod("a", "demo")
			if tt.pod != nil {
				tt.pod(&p)
			}
			enforced := policy(t, v1.PolicyEnforce, tt.rules...)
			grant, refusal := ask(identity.Rules{Policy: enforced}, p, tt.id)
			if (grant != nil) != tt.allowed {
				t.Fatalf("granted: %v, want %v (refusal: %v)", grant != nil, tt.allowed, refusal)
			}
			if !tt.allowed && (refusal.Reason != reason.UseForbidden || refusal.Identity != tt.id || refusal.Binding == nil ||
				!strings.HasPrefix(refusal.Message, "no rule of AzureIdentityPolicy default allows ServiceAccount a/")) {
				t.Errorf("refusal: %+v", refusal)
			}
			if tt.allowed && !enforced.AllowsInNamespace(tt.id, p.NamespaceLabels) {
				t.Error("a pod of the namespace may use it, and AllowsInNamespace says no")
			}
			warned, _ := ask(identity.Rules{Policy: policy(t, v1.PolicyWarn, tt.rules...)}, p, tt.id)
			if warned == nil || (warned.Warning == nil) != tt.allowed || warned.WarnAudience("x") != warned.Warning && !tt.allowed {
				t.Errorf("warn: %+v, want a grant, with a warning unless allowed", warned)
			}
			off, _ := ask(identity.Rules{Policy: policy(t, v1.PolicyOff, tt.rules...)}, p, tt.id)
			if off == nil || off.Warning != nil || off.RefuseAudience("x") != nil || off.WarnAudience("x") != nil {
				t.Errorf("off: %+v, want a grant without a warning", off)
			}
		})
	}
}

func TestPolicyAudiences(t *testing.T) {
	vault := v1.PolicyIdentities{Audiences: []string{"https://vault.azure.net/"}}
	storage := v1.PolicyIdentities{Audiences: []string{"https://storage.azure.com"}}
	for _, tt := range []struct {
		name, resource string
		entries        []v1.PolicyIdentities
		allowed        bool
	}{
		{"listed", "https://vault.azure.net/", []v1.PolicyIdentities{vault}, true},
		{"slash and case", "https://Vault.azure.net", []v1.PolicyIdentities{vault}, true},
		{"not listed", "https://management.azure.com/", []v1.PolicyIdentities{vault}, false},
		{"part of it", "https://vault.azure.net.evil", []v1.PolicyIdentities{vault}, false},
		{"union", "https://storage.azure.com", []v1.PolicyIdentities{vault, storage}, true},
		{"one entry allows all", "https://management.azure.com/", []v1.PolicyIdentities{vault, {}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for mode, enforced := range map[v1.PolicyMode]bool{v1.PolicyEnforce: true, v1.PolicyWarn: false} {
				grant, _ := ask(identity.Rules{Policy: policy(t, mode, forNamespaces([]string{"a"}, tt.entries...))}, pod("a", "demo"), id("a", "one"))
				if refusal := grant.RefuseAudience(tt.resource); (refusal != nil) != (enforced && !tt.allowed) {
					t.Errorf("%s: refused: %v", mode, refusal)
				}
				if warning := grant.WarnAudience(tt.resource); (warning != nil) != (!enforced && !tt.allowed) {
					t.Errorf("%s: warned: %v", mode, warning)
				}
			}
		})
	}
}

func TestClusterIdentity(t *testing.T) {
	const theirs = "/subscriptions/" + guidA + "/resourceGroups/MC/providers/Microsoft.ManagedIdentity/userAssignedIdentities/agentpool"
	object := func(resourceID, clientID string) *v1.AzureIdentity {
		return id("a", "one", spec(v1.AzureIdentitySpec{ResourceID: resourceID, ClientID: clientID}))
	}
	type entry = v1.PolicyIdentities
	named := func(e entry) []v1.PolicyRule { return []v1.PolicyRule{forNamespaces([]string{"a"}, e)} }
	for _, tt := range []struct {
		name    string
		id      *v1.AzureIdentity
		allow   bool
		rules   []v1.PolicyRule
		refused bool
	}{
		{"by resource ID", object(strings.ToUpper(theirs), ""), false, nil, true},
		{"by client ID", object("", strings.ToUpper(kubelet)), false, nil, true},
		{"client ID beside an own resource ID", object(idPrefix+"one", kubelet), false, nil, true},
		{"another", object(idPrefix+"one", guidB), false, nil, false},
		{"allowed by flag", object(theirs, kubelet), true, nil, false},
		{"named by resource ID", object(theirs, kubelet), false, named(entry{ResourceIDs: []string{theirs}}), false},
		{"named by client ID", object(theirs, kubelet), false, named(entry{ClientIDs: []string{kubelet}}), false},
		{"everything is not a name", object(theirs, kubelet), false, named(entry{}), true},
		{"a wildcard is not a name", object(theirs, kubelet), false, named(entry{ResourceIDs: []string{strings.Replace(theirs, "agentpool", "agent*", 1)}}), true},
		{"a selector is not a namespace", object(theirs, kubelet), false, []v1.PolicyRule{selecting(nil, entry{ResourceIDs: []string{theirs}})}, true},
		{"another client ID does not open the resource ID", object(theirs, guidB), false, named(entry{ClientIDs: []string{guidB}}), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, mode := range []v1.PolicyMode{v1.PolicyOff, v1.PolicyWarn, v1.PolicyEnforce} {
				if mode == v1.PolicyEnforce && tt.rules == nil {
					continue
				}
				rules := identity.Rules{
					Managed: true, AllowClusterIdentities: tt.allow, Policy: policy(t, mode, tt.rules...),
					ClusterIdentities: map[string]bool{kubelet: true, strings.ToLower(theirs): true},
				}
				grant, refusal := ask(rules, pod("a", "demo"), tt.id)
				if (grant == nil) != tt.refused {
					t.Fatalf("%s: refused %v, want %v", mode, grant == nil, tt.refused)
				}
				if tt.refused && refusal.Reason != reason.ClusterIdentity {
					t.Errorf("%s: reason %s", mode, refusal.Reason)
				}
			}
		})
	}
}

// A rule for everything does not lift the audiences under which an identity of the cluster itself
// is named.
func TestClusterIdentityAudiences(t *testing.T) {
	const vault, arm = "https://vault.azure.net", "https://management.azure.com"
	rules := identity.Rules{Managed: true, ClusterIdentities: map[string]bool{kubelet: true}, Policy: policy(t, v1.PolicyEnforce,
		forNamespaces([]string{"a"}, v1.PolicyIdentities{}, v1.PolicyIdentities{ClientIDs: []string{kubelet}, Audiences: []string{vault}}))}
	grant, refusal := ask(rules, pod("a", "demo"), id("a", "one", spec(v1.AzureIdentitySpec{ClientID: kubelet})))
	if refusal != nil {
		t.Fatal(refusal)
	}
	if grant.RefuseAudience(vault) != nil || grant.RefuseAudience(arm) == nil {
		t.Error("the named identity is good for every audience")
	}
	rules.ClusterIdentities = nil // the token alone shows what it is
	grant, _ = ask(rules, pod("a", "demo"), id("a", "one", spec(v1.AzureIdentitySpec{ClientID: kubelet})))
	if grant.RefuseAudience(arm) != nil || grant.OfCluster().RefuseAudience(arm) == nil || grant.OfCluster().RefuseAudience(vault) != nil {
		t.Error("OfCluster keeps the audiences of rules that do not name the identity")
	}
}

func TestSameManagedIdentity(t *testing.T) {
	ids := []*v1.AzureIdentity{
		id("team-b", "shared", created(1), spec(v1.AzureIdentitySpec{ResourceID: strings.ToUpper(idPrefix) + "x"})),
		id("team-a", "shared", created(9), spec(v1.AzureIdentitySpec{ResourceID: idPrefix + "x"})),
		id("team-c", "other", created(2)),
	}
	bindings := []*v1.AzureIdentityBinding{
		bind("team-b", "b", "demo", "shared", 100), bind("team-a", "b", "demo", "shared", 0), bind("team-c", "b", "demo", "other", 0),
	}
	grants, _ := identity.Rules{}.Grants(pod("team-a", "demo"), bindings, lookup(ids...))
	if diff := cmp.Diff([]string{"team-c/other by team-c/b", "team-a/shared by team-a/b"}, granted(grants)); diff != "" {
		t.Errorf("the object of the pod's own namespace stands for a managed identity (-want +got):\n%s", diff)
	}
}

func TestTooManyIdentities(t *testing.T) {
	const foreign, own = 20_000, 40
	var ids []*v1.AzureIdentity
	var bindings []*v1.AzureIdentityBinding
	add := func(namespace, name string, weight int) {
		ids = append(ids, id(namespace, name))
		bindings = append(bindings, bind(namespace, name, "demo", name, weight))
	}
	for i := range foreign {
		add("evil", fmt.Sprintf("i%05d", i), 1000)
	}
	for i := range own {
		add("a", fmt.Sprintf("own%d", i), 0)
	}
	grants, refusals := identity.Rules{}.Grants(pod("a", "demo"), bindings, lookup(ids...))
	if len(grants) != identity.MaxIdentities || len(refusals) != 1 {
		t.Fatalf("%d grants, %d refusals", len(grants), len(refusals))
	}
	kept := 0
	for _, g := range grants {
		if g.Identity.Namespace == "a" {
			kept++
		}
	}
	if kept != own {
		t.Errorf("%d identities of the pod's own namespace are left, want all %d: another namespace pushed them out", kept, own)
	}
	if r := refusals[0]; r.Reason != reason.TooManyIdentities || r.Identity.Name != "i00060" ||
		!strings.Contains(r.Message, "grant pod a/web-0 20040 identities and a pod can use 100: AzureIdentity evil/i00060 and 19939 further ones are left out") {
		t.Errorf("%s %s: %s", r.Reason, r.Identity.Name, r.Message)
	}
	_, refusals = identity.Rules{}.Grants(pod("a", "demo"), bindings, lookup())
	if len(refusals) != 100 {
		t.Errorf("%d refusals are kept in memory, want at most 100", len(refusals))
	}
}

func TestPlainIMDS(t *testing.T) {
	exception := &v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "e"},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{v1.BindingLabel: "demo"}},
	}
	allowing := func(namespace string) v1.PolicyRule {
		return v1.PolicyRule{Name: "p", Namespaces: []string{namespace}, PlainIMDS: true}
	}
	for _, tt := range []struct {
		name             string
		policy           *identity.Policy
		excepted, refuse bool
	}{
		{"no policy", nil, true, false},
		{"off", policy(t, v1.PolicyOff), true, false},
		{"warn", policy(t, v1.PolicyWarn, allowing("b")), true, true},
		{"enforce", policy(t, v1.PolicyEnforce, forNamespaces([]string{"a"}, v1.PolicyIdentities{})), false, true},
		{"enforce, allowed", policy(t, v1.PolicyEnforce, allowing("a")), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, refusal := identity.Rules{Policy: tt.policy}.PlainIMDS(pod("a", "demo"), []*v1.AzurePodIdentityException{exception})
			if (e != nil) != tt.excepted || (refusal != nil) != tt.refuse {
				t.Errorf("excepted %v, refusal %v", e, refusal)
			}
		})
	}
}

func TestCompilePolicy(t *testing.T) {
	broken := v1.PolicyRule{Name: "odd", Identities: []v1.PolicyIdentities{{}}, NamespaceSelector: &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Matches"}},
	}}
	object := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{
		Mode: "Enforce", Rules: []v1.PolicyRule{broken, forNamespaces([]string{"a"}, v1.PolicyIdentities{})},
	}}
	p, err := identity.CompilePolicy(object)
	if err == nil || !strings.Contains(err.Error(), `rule "odd" of AzureIdentityPolicy default selects no namespace`) {
		t.Errorf("error %v", err)
	}
	if p.Mode() != v1.PolicyEnforce {
		t.Errorf("an unknown mode counts as %q, want enforce", p.Mode())
	}
	if grant, _ := ask(identity.Rules{Policy: p}, pod("a", "demo"), id("a", "one")); grant == nil || grant.Rule() != "r" {
		t.Error("a broken rule takes the others with it")
	}
	if grant, _ := ask(identity.Rules{Policy: p}, pod("b", "demo"), id("b", "one")); grant != nil {
		t.Error("a broken selector selects a namespace")
	}
	object.Name = "other"
	if p, err := identity.CompilePolicy(object); p != nil || err != nil {
		t.Errorf("an object of another name is a policy: %v, %v", p, err)
	}
}

// No wildcard pattern matches more than a slow comparison, letter by letter, does.
func TestWildcards(t *testing.T) {
	const base = "/subscriptions/" + guidA + "/resourceGroups/"
	const rest = "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one"
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{1,6}`).Draw(t, "pattern")
		group := rapid.StringMatching(`[ab]{1,6}`).Draw(t, "group")
		p, err := identity.CompilePolicy(&v1.AzureIdentityPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce, Rules: []v1.PolicyRule{
				forNamespaces([]string{"a"}, v1.PolicyIdentities{ResourceIDs: []string{base + pattern + rest}}),
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		grant, _ := ask(identity.Rules{Policy: p}, pod("a", "demo"), id("a", "one", spec(v1.AzureIdentitySpec{ResourceID: base + group + rest})))
		if want := slowMatch(pattern, group); (grant != nil) != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, group, grant != nil, want)
		}
	})
}

func slowMatch(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return slowMatch(pattern[1:], s) || s != "" && slowMatch(pattern, s[1:])
	default:
		return s != "" && s[0] == pattern[0] && slowMatch(pattern[1:], s[1:])
	}
}
