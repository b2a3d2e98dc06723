package identity_test

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

const (
	guidA    = "b9fe2d38-5f0c-4a0c-9a5e-1c9d4d7a7f01"
	guidB    = "c0ffee00-5f0c-4a0c-9a5e-1c9d4d7a7f02"
	idPrefix = "/subscriptions/" + guidA + "/resourceGroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
)

func pod(namespace, label string) identity.Pod {
	p := identity.Pod{Namespace: namespace, Name: "web-0", Labels: map[string]string{"app": "web"}}
	if label != "" {
		p.Labels[v1.BindingLabel] = label
	}
	return p
}

// id is a usable managed identity; change adds what a case is about.
func id(namespace, name string, change ...func(*v1.AzureIdentity)) *v1.AzureIdentity {
	out := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentitySpec{ResourceID: idPrefix + name},
	}
	for _, f := range change {
		f(out)
	}
	return out
}

func annotated(value string) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) { i.Annotations = map[string]string{v1.BehaviorAnnotation: value} }
}

func created(second int64) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) { i.CreationTimestamp = metav1.Unix(second, 0) }
}

func spec(s v1.AzureIdentitySpec) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) { i.Spec = s }
}

func principal(kind v1.IdentityType) v1.AzureIdentitySpec {
	return v1.AzureIdentitySpec{
		Type: kind, TenantID: guidA, ClientID: guidB, ClientPassword: v1.SecretReference{Name: "s"},
	}
}

func bind(namespace, name, selector, azureIdentity string, weight int) *v1.AzureIdentityBinding {
	return &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: azureIdentity, Selector: selector, Weight: weight},
	}
}

func deleted(b *v1.AzureIdentityBinding) *v1.AzureIdentityBinding {
	b.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	return b
}

func lookup(ids ...*v1.AzureIdentity) func(namespace, name string) *v1.AzureIdentity {
	byName := map[string]*v1.AzureIdentity{}
	for _, i := range ids {
		byName[i.Namespace+"/"+i.Name] = i
	}
	return func(namespace, name string) *v1.AzureIdentity { return byName[namespace+"/"+name] }
}

// granted and refused format a result of Grants for comparison.
func granted(grants []identity.Grant) []string {
	var out []string
	for _, g := range grants {
		out = append(out, g.Identity.Namespace+"/"+g.Identity.Name+" by "+g.Binding.Namespace+"/"+g.Binding.Name)
	}
	return out
}

func refused(refusals []*reason.Refusal) []string {
	var out []string
	for _, r := range refusals {
		word := r.Reason.Name()
		if r.Binding != nil {
			word += " " + r.Binding.Namespace + "/" + r.Binding.Name
		}
		out = append(out, word)
	}
	return out
}

func benchBindings() []*v1.AzureIdentityBinding {
	return []*v1.AzureIdentityBinding{bind("a", "b", "demo", "one", 0)}
}

// withSecret makes a service principal whose Secret is in a namespace.
func withSecret(namespace string) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) {
		i.Spec = principal(v1.ServicePrincipal)
		i.Spec.ClientPassword.Namespace = namespace
	}
}
