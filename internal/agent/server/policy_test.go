package server

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// policy sets the AzureIdentityPolicy, as the watch does.
func (w *world) policy(mode v1.PolicyMode, rules ...v1.PolicyRule) {
	w.t.Helper()
	p, err := identity.CompilePolicy(&v1.AzureIdentityPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: mode, Rules: rules},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.authorize.SetPolicy(p)
}

// TestPolicy: the policy changes while a pod has a token in the cache and an open connection. Each
// change applies to the next request.
func TestPolicy(t *testing.T) {
	events := &refusals{}
	w := newWorld(t, func(s *settings) { s.server.Events = events })
	w.assign("web", "10.9.0.2", "one")
	w.pod("plain", "10.9.0.3")
	w.except("plain")
	web, plain := w.listen("10.9.0.2"), w.listen("10.9.0.3")
	rule := func(change func(*v1.PolicyRule)) v1.PolicyRule {
		r := v1.PolicyRule{Name: "shop", Namespaces: []string{"shop"}, Identities: []v1.PolicyIdentities{{ResourceIDs: []string{resourceID("*")}}}}
		change(&r)
		return r
	}
	asIs := func(*v1.PolicyRule) {}
	for _, step := range []struct {
		name         string
		mode         v1.PolicyMode
		rules        []v1.PolicyRule
		query        string
		status       int
		says, events string
	}{
		{"no policy", "", nil, tokenQuery(arm), 200, "", ""},
		{"no rule", v1.PolicyEnforce, nil, tokenQuery(arm), 403, "no rule of AzureIdentityPolicy default allows ServiceAccount shop/default to use AzureIdentity shop/one", "ForbiddenByPolicy"},
		{"no rule, by client ID", v1.PolicyEnforce, nil, tokenQuery(arm, "client_id="+clientID("one")), 403, "no rule of AzureIdentityPolicy default", "ForbiddenByPolicy"},
		{"no rule, another client ID", v1.PolicyEnforce, nil, tokenQuery(arm, "client_id="+clientID("two")), 404, "", ""},
		{"warned", v1.PolicyWarn, nil, tokenQuery(arm), 200, "", "WouldBeRefused: the policy warns and does not enforce yet: no rule"},
		{"allowed", v1.PolicyEnforce, []v1.PolicyRule{rule(asIs)}, tokenQuery(arm), 200, "", ""},
		{"another ServiceAccount", v1.PolicyEnforce, []v1.PolicyRule{rule(func(r *v1.PolicyRule) { r.ServiceAccounts = []string{"api"} })}, tokenQuery(arm), 403, "ServiceAccount shop/default", "ForbiddenByPolicy"},
		{
			"another audience", v1.PolicyEnforce,
			[]v1.PolicyRule{rule(func(r *v1.PolicyRule) { r.Identities[0].Audiences = []string{"https://vault.azure.net"} })},
			tokenQuery(arm), 403,
			`rule \"shop\" of AzureIdentityPolicy default does not allow AzureIdentity shop/one tokens for \"https://management.azure.com/\"`, "ForbiddenByPolicy",
		},
		{"this audience", v1.PolicyEnforce, []v1.PolicyRule{rule(func(r *v1.PolicyRule) { r.Identities[0].Audiences = []string{"https://management.azure.com"} })}, tokenQuery(arm), 200, "", ""},
		{"label not there", v1.PolicyEnforce, []v1.PolicyRule{rule(func(r *v1.PolicyRule) {
			r.Namespaces, r.NamespaceSelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}
		})}, tokenQuery(arm), 403, "no rule", "ForbiddenByPolicy"},
		{"off", v1.PolicyOff, nil, tokenQuery(arm), 200, "", ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			*events = nil
			if step.mode != "" {
				w.policy(step.mode, step.rules...)
			}
			got := w.get(web, step.query)
			if got.status != step.status || !strings.Contains(got.body, step.says) {
				t.Errorf("%d %s, want %d %s", got.status, got.body, step.status, step.says)
			}
			if step.status != 404 && strings.Join(*events, "|") != "" != (step.events != "") || !strings.Contains(strings.Join(*events, "|"), step.events) {
				t.Errorf("events %q, want %q", *events, step.events)
			}
		})
	}
	t.Run("label there", func(t *testing.T) {
		w.policy(v1.PolicyEnforce, rule(func(r *v1.PolicyRule) {
			r.Namespaces, r.NamespaceSelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}
		}))
		w.authorize.SetNamespace("shop", map[string]string{"team": "shop"})
		w.get(web, tokenQuery(arm)).want(t, 200)
		w.authorize.SetNamespace("shop", nil)
		w.get(web, tokenQuery(arm)).want(t, 403) // the label is gone
	})
	t.Run("exceptions", func(t *testing.T) {
		w.policy(v1.PolicyEnforce, rule(asIs))
		w.get(plain, tokenQuery(arm)).want(t, 403, "AzurePodIdentityException shop/plain does not count")
		w.policy(v1.PolicyEnforce, rule(func(r *v1.PolicyRule) { r.PlainIMDS = true }))
		if got := w.get(plain, tokenQuery(arm)); strings.Contains(got.body, "does not count") {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}
