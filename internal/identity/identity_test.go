package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

func TestGrants(t *testing.T) {
	type bindings = []*v1.AzureIdentityBinding
	leaving := id("a", "leaving")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}

	for _, tt := range []struct {
		name     string
		rules    identity.Rules
		pod      identity.Pod
		bindings bindings
		ids      []*v1.AzureIdentity
		granted  []string
		refused  []string
		says     string // part of the first refusal's message
	}{
		{
			name: "one", pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one")},
			granted: []string{"a/one by a/b"},
		},
		{
			name: "no label", pod: pod("a", ""),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one")},
			refused: []string{"NoLabel"}, says: "pod a/web-0 has no label aadpodidbinding: set it to",
		},
		{
			name: "empty label and selector", pod: identity.Pod{Namespace: "a", Labels: map[string]string{v1.BindingLabel: ""}},
			bindings: bindings{bind("a", "b", "", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one")},
			refused: []string{"NoLabel"}, says: "has an empty label",
		},
		{
			name: "no bindings at all", pod: pod("a", "demo"),
			refused: []string{"NoBinding"}, says: `has the selector "demo" of pod a/web-0: create one in namespace a`,
		},
		{
			name: "selectors compare exactly", pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "Demo", "one", 0), bind("a", "c", "demo ", "one", 0), nil},
			ids:      []*v1.AzureIdentity{id("a", "one")}, refused: []string{"NoBinding"},
		},
		{
			name: "binding being deleted", pod: pod("a", "demo"),
			bindings: bindings{deleted(bind("a", "b", "demo", "one", 0))}, ids: []*v1.AzureIdentity{id("a", "one")},
			refused: []string{"NoBinding"},
		},
		{
			name: "identity missing", pod: pod("a", "demo"), bindings: bindings{bind("a", "b", "demo", "one", 0)},
			ids:     []*v1.AzureIdentity{id("other", "one")},
			refused: []string{"IdentityMissing a/b"}, says: `AzureIdentity "one", which does not exist in namespace a`,
		},
		{
			name: "identity not named", pod: pod("a", "demo"), bindings: bindings{bind("a", "b", "demo", "", 0)},
			refused: []string{"IdentityMissing a/b"}, says: "names no AzureIdentity: set spec.azureIdentity",
		},
		{
			name: "identity being deleted", pod: pod("a", "demo"), bindings: bindings{bind("a", "b", "demo", "leaving", 0)},
			ids: []*v1.AzureIdentity{leaving}, refused: []string{"IdentityMissing a/b"}, says: "is being deleted",
		},
		{
			name: "other namespace, open cluster", pod: pod("a", "demo"), bindings: bindings{bind("z", "b", "demo", "one", 0)},
			ids: []*v1.AzureIdentity{id("z", "one")}, granted: []string{"z/one by z/b"},
		},
		{
			name: "other namespace, namespaced cluster", rules: identity.Rules{ForceNamespaced: true}, pod: pod("a", "demo"),
			bindings: bindings{bind("z", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("z", "one")},
			refused: []string{"OtherNamespace z/b"}, says: "create the binding and its identity in namespace a",
		},
		{
			name: "other namespace, namespaced identity", pod: pod("a", "demo"),
			bindings: bindings{bind("z", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("z", "one", annotated("Namespaced "))},
			refused: []string{"NamespacedIdentity z/b"}, says: "serves only its own namespace",
		},
		{
			name: "own namespace, namespaced twice", rules: identity.Rules{ForceNamespaced: true}, pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", annotated("namespaced"))},
			granted: []string{"a/one by a/b"},
		},
		{
			name: "annotation of another meaning", pod: pod("a", "demo"),
			bindings: bindings{bind("z", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("z", "one", annotated("cluster"))},
			granted: []string{"z/one by z/b"},
		},
		{
			name: "broken", pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "bad", 0), bind("a", "c", "demo", "good", 0)},
			ids:      []*v1.AzureIdentity{id("a", "bad", spec(v1.AzureIdentitySpec{ResourceID: "x"})), id("a", "good")},
			granted:  []string{"a/good by a/c"}, refused: []string{"IdentityBroken a/b"},
			says: "AzureIdentity a/bad cannot be used: spec.resourceID:",
		},
		{
			name: "client ID alone", pod: pod("a", "demo"), bindings: bindings{bind("a", "b", "demo", "one", 0)},
			ids:     []*v1.AzureIdentity{id("a", "one", spec(v1.AzureIdentitySpec{ClientID: "c"}))},
			refused: []string{"IdentityBroken a/b"},
		},
		{
			name: "client ID alone, managed", rules: identity.Rules{ForceNamespaced: true, Managed: true}, pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", spec(v1.AzureIdentitySpec{ClientID: "c"}))},
			granted: []string{"a/one by a/b"},
		},
		{
			name: "neither, managed", rules: identity.Rules{ForceNamespaced: true, Managed: true}, pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", spec(v1.AzureIdentitySpec{}))},
			refused: []string{"IdentityBroken a/b"},
		},
		{
			name: "foreign Secret", rules: identity.Rules{ForceNamespaced: true}, pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", withSecret("other"))},
			refused: []string{"IdentityBroken a/b"}, says: "names a Secret in namespace other",
		},
		{
			name: "foreign Secret, namespaced identity", pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", withSecret("other"), annotated("namespaced"))},
			refused: []string{"IdentityBroken a/b"}, says: "move the Secret to namespace a",
		},
		{
			name: "foreign Secret, open cluster", pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", withSecret("other"))},
			granted: []string{"a/one by a/b"},
		},
		{
			name: "own Secret, named", rules: identity.Rules{ForceNamespaced: true}, pod: pod("a", "demo"),
			bindings: bindings{bind("a", "b", "demo", "one", 0)}, ids: []*v1.AzureIdentity{id("a", "one", withSecret("a"))},
			granted: []string{"a/one by a/b"},
		},
		{
			name: "weight, age, name", pod: pod("a", "demo"),
			bindings: bindings{
				bind("a", "1", "demo", "young", 0), bind("a", "2", "demo", "old", 0), bind("a", "3", "demo", "heavy", 5),
				bind("a", "4", "demo", "also-old", 0), bind("a", "5", "demo", "light", -1),
			},
			ids: []*v1.AzureIdentity{
				id("a", "young", created(9)), id("a", "old", created(1)), id("a", "heavy", created(10)),
				id("a", "also-old", created(1)), id("a", "light", created(0)),
			},
			granted: []string{"a/heavy by a/3", "a/also-old by a/4", "a/old by a/2", "a/young by a/1", "a/light by a/5"},
		},
		{
			name: "once, by its best binding", pod: pod("a", "demo"),
			bindings: bindings{bind("a", "1", "demo", "one", 1), bind("a", "2", "demo", "two", 2), bind("a", "3", "demo", "one", 3)},
			ids:      []*v1.AzureIdentity{id("a", "one"), id("a", "two")},
			granted:  []string{"a/one by a/3", "a/two by a/2"},
		},
		{
			name: "same name, two namespaces", pod: pod("a", "demo"),
			bindings: bindings{bind("z", "b", "demo", "one", 0), bind("a", "b", "demo", "one", 0)},
			ids:      []*v1.AzureIdentity{id("a", "one"), id("z", "one", spec(v1.AzureIdentitySpec{ResourceID: idPrefix + "two"}))},
			granted:  []string{"a/one by a/b", "z/one by z/b"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			grants, refusals := tt.rules.Grants(tt.pod, tt.bindings, lookup(tt.ids...))
			if diff := cmp.Diff(tt.granted, granted(grants)); diff != "" {
				t.Errorf("grants (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.refused, refused(refusals)); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
			if tt.says != "" && !strings.Contains(refusals[0].Error(), tt.says) {
				t.Errorf("message %q, want %q in it", refusals[0].Message, tt.says)
			}
		})
	}
}

func TestLiarLookup(t *testing.T) {
	anywhere := func(string, string) *v1.AzureIdentity { return id("secret", "other") }
	grants, refusals := identity.Rules{}.Grants(
		pod("a", "demo"), []*v1.AzureIdentityBinding{bind("a", "b", "demo", "one", 0)}, anywhere)
	if len(grants) != 0 || refusals[0].Reason != reason.IdentityMissing {
		t.Errorf("got %v, %v; an identity of another name must not be taken", granted(grants), refused(refusals))
	}
}

func TestSelects(t *testing.T) {
	open, closed := identity.Rules{}, identity.Rules{ForceNamespaced: true}
	for _, tt := range []struct {
		name    string
		rules   identity.Rules
		pod     identity.Pod
		binding *v1.AzureIdentityBinding
		want    bool
	}{
		{"match", closed, pod("a", "demo"), bind("a", "b", "demo", "", 0), true},
		{"elsewhere, open", open, pod("a", "demo"), bind("z", "b", "demo", "", 0), true},
		{"elsewhere, closed", closed, pod("a", "demo"), bind("z", "b", "demo", "", 0), false},
		{"other selector", open, pod("a", "demo"), bind("a", "b", "x", "", 0), false},
		{"no label", open, pod("a", ""), bind("a", "b", "", "", 0), false},
		{"deleted", open, pod("a", "demo"), deleted(bind("a", "b", "demo", "", 0)), false},
		{"nil", open, pod("a", "demo"), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.rules.Selects(tt.pod, tt.binding); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestExcepted(t *testing.T) {
	except := func(namespace, name string, labels map[string]string) *v1.AzurePodIdentityException {
		return &v1.AzurePodIdentityException{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: labels},
		}
	}
	gone := except("a", "gone", map[string]string{"app": "web"})
	gone.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	for _, tt := range []struct {
		name       string
		exceptions []*v1.AzurePodIdentityException
		want       string
	}{
		{"none", nil, ""},
		{"any one label", []*v1.AzurePodIdentityException{nil, except("a", "e", map[string]string{"x": "y", "app": "web"})}, "e"},
		{"value in another case", []*v1.AzurePodIdentityException{except("a", "e", map[string]string{"app": "Web"})}, "e"},
		{"value differs", []*v1.AzurePodIdentityException{except("a", "e", map[string]string{"app": "webs"})}, ""},
		{"key in another case", []*v1.AzurePodIdentityException{except("a", "e", map[string]string{"App": "web"})}, ""},
		{"label absent, value empty", []*v1.AzurePodIdentityException{except("a", "e", map[string]string{"x": ""})}, ""},
		{"no labels", []*v1.AzurePodIdentityException{except("a", "e", nil)}, ""},
		{"other namespace", []*v1.AzurePodIdentityException{except("z", "e", map[string]string{"app": "web"})}, ""},
		{"being deleted", []*v1.AzurePodIdentityException{gone}, ""},
		{"first by name", []*v1.AzurePodIdentityException{
			except("a", "f", map[string]string{"app": "web"}), except("a", "e", map[string]string{"app": "web"}),
		}, "e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if e := identity.Excepted(pod("a", ""), tt.exceptions); e != nil {
				got = e.Name
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec v1.AzureIdentitySpec
		want string // part of the message; "" when usable
	}{
		{"managed", v1.AzureIdentitySpec{ResourceID: idPrefix + "x"}, ""},
		{"managed, odd client ID", v1.AzureIdentitySpec{ResourceID: idPrefix + "x", ClientID: "?"}, ""},
		{"managed, empty", v1.AzureIdentitySpec{ClientID: guidA}, "spec.resourceID: resource ID is empty: want /subscriptions/"},
		{"secret", principal(v1.ServicePrincipal), ""},
		{"certificate", principal(v1.ServicePrincipalCertificate), ""},
		{"federated", principal(v1.Federated), ""},
		{"secret, empty", v1.AzureIdentitySpec{Type: 1}, "type 1 needs spec.tenantID and spec.clientID and spec.clientPassword.name"},
		{"certificate, blank tenant", v1.AzureIdentitySpec{Type: 2, TenantID: " "}, "type 2 needs spec.tenantID"},
		{"federated, empty", v1.AzureIdentitySpec{Type: 3}, "type 3 needs spec.tenantID and spec.clientID"},
		{"unknown", v1.AzureIdentitySpec{Type: 7}, "spec.type 7 is unknown: use 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken := id("a", "one", spec(tt.spec))
			refusal := identity.Check(broken)
			switch {
			case tt.want == "" && refusal != nil:
				t.Errorf("refused: %s", refusal.Message)
			case tt.want == "":
			case refusal == nil:
				t.Errorf("usable, want %q", tt.want)
			case refusal.Reason != reason.IdentityBroken || refusal.Identity != broken || !strings.Contains(refusal.Message, tt.want):
				t.Errorf("got %+v, want %q", refusal, tt.want)
			}
		})
	}
}

func TestRefusalIsError(t *testing.T) {
	refusal := identity.Check(id("a", "one", spec(v1.AzureIdentitySpec{Type: 7})))
	var err error = refusal
	if got := err.Error(); got != refusal.Message {
		t.Errorf("got %q", got)
	}
}
