// A hostile tenant: a namespace whose user names others' identities and selectors, and creates far
// too many objects.
package faults_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

const (
	// mallory is the namespace of the hostile tenant.
	mallory = "mallory"
	// flood is the selector of more identities than a pod can have.
	flood = "flood"
	// floodSize is how many bindings and identities the flood reaches, floodStep how many are
	// created at once.
	floodSize, floodStep = 150, 25
)

// namespaces returns those in which things change.
func namespaces() []string { return append(teams(), mallory) }

// podsIn returns the maximum number of pods.
func podsIn(namespace string) int {
	if namespace == mallory {
		return 5
	}
	return podsEach
}

// attack returns the next change of mallory.
func (h *history) attack() change {
	switch p := h.rng.IntN(10); {
	case p < 4:
		return h.pod(mallory, h.name("pod", podsIn(mallory)))
	case p < 6:
		return h.binding(mallory, h.name("binding", bindingsEach))
	case p < 9:
		return h.identity(mallory, h.name("id", identitiesEach))
	default:
		return h.flood()
	}
}

// othersSelector returns one that another namespace uses, or the flood's.
func (h *history) othersSelector() string {
	return h.pick([]string{h.name("app", selectorsEach), h.name(steadyPrefix[:len(steadyPrefix)-1], steadyPods), flood, flood, flood})
}

// othersIdentity returns a spec with an identity of another owner.
func (h *history) othersIdentity() v1.AzureIdentitySpec {
	victim := h.pick(steadyIDs())
	specs := []v1.AzureIdentitySpec{
		{ResourceID: victim},
		{ResourceID: spelled(victim), ClientID: strings.ToUpper(clientOf(victim))},
		{ResourceID: h.pick(goodIDs())},
		{ResourceID: spelled(h.pick(steadyIDs()))},
		{ResourceID: h.pick(refusedIDs())},
		{ResourceID: privateID()},
		{ResourceID: spelled(privateID()), ClientID: clientOf(privateID())},
		{ResourceID: clusterID()},
		// Fields of two different identities.
		{ResourceID: h.pick(steadyIDs()), ClientID: clientOf(victim)},
		{ResourceID: sharedID(), ClientID: clientOf(victim)},
		{ResourceID: h.pick(goodIDs()), ClientID: clientOf(clusterID())},
		{ResourceID: victim, ClientID: operatorClient},
		{Type: v1.ServicePrincipal, TenantID: tenant, ClientID: operatorClient, ClientPassword: v1.SecretReference{Name: "secret"}},
	}
	return specs[h.rng.IntN(len(specs))]
}

// giant adds as much metadata as the chart's admission policy permits.
func giant(o *v1.AzureIdentity, touch string) {
	o.Labels, o.Annotations = map[string]string{}, map[string]string{"touched": touch, "giant": strings.Repeat("x", 60<<10)}
	for i := range 64 {
		o.Labels[fmt.Sprintf("label-%d-%s", i, strings.Repeat("x", 40))] = strings.Repeat("y", 63)
	}
}

// flood creates some more of what a pod with the selector would get.
func (h *history) flood() change {
	from := h.flooded
	h.flooded = min(h.flooded+floodStep, floodSize)
	return change{fmt.Sprintf("flood: %d to %d", from, h.flooded), func(ctx context.Context, c client.Client) error {
		for i := from; i < min(from+floodStep, floodSize); i++ {
			meta := metav1.ObjectMeta{Namespace: mallory, Name: flood + "-" + strconv.Itoa(i)}
			id := &v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{ResourceID: goodIDs()[i%goodIdentities]}}
			binding := &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: meta.Name, Selector: flood}}
			for _, o := range []client.Object{id, binding} {
				if err := create(ctx, c, o); err != nil {
					return err
				}
			}
		}
		return nil
	}}
}

// policy changes or removes the cluster's policy. Pods that stay are always allowed what they have.
func (h *history) policy() change {
	mode := []v1.PolicyMode{"", v1.PolicyOff, v1.PolicyWarn, v1.PolicyEnforce, v1.PolicyEnforce}[h.rng.IntN(5)]
	if mode == "" {
		return change{"no policy", func(ctx context.Context, c client.Client) error {
			return client.IgnoreNotFound(c.Delete(ctx, &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}}))
		}}
	}
	spec := v1.AzureIdentityPolicySpec{Mode: mode, Rules: h.policyRules()}
	var names []string
	for _, rule := range spec.Rules {
		names = append(names, rule.Name)
	}
	return change{fmt.Sprintf("policy %s: %v", mode, names), func(ctx context.Context, c client.Client) error {
		p := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}}
		err := edit(ctx, c, c, p, func(p *v1.AzureIdentityPolicy) { p.Spec = spec })
		if apierrors.IsNotFound(err) {
			p.Spec = spec
			return create(ctx, c, p)
		}
		return err
	}}
}

func (h *history) policyRules() []v1.PolicyRule {
	ids := func(ids ...string) v1.PolicyIdentities { return v1.PolicyIdentities{ResourceIDs: ids} }
	rules := []v1.PolicyRule{{
		Name: "steady", Namespaces: []string{steady},
		Identities: []v1.PolicyIdentities{ids(resourceID(identityGroup, steadyPrefix+"*"))},
	}}
	some := []v1.PolicyRule{
		{Name: "everything", Namespaces: []string{teams()[0]}, Identities: []v1.PolicyIdentities{{}}},
		{Name: "good", Namespaces: teams(), Identities: []v1.PolicyIdentities{ids(resourceID(identityGroup, "good-*"), sharedID())}},
		{Name: "types", Namespaces: []string{teams()[1]}, Identities: []v1.PolicyIdentities{{Types: []v1.IdentityType{v1.ServicePrincipal}}}},
		{
			Name: "selected", Identities: []v1.PolicyIdentities{ids(goodIDs()[:goodIdentities/2]...)},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: teams()[1]}},
		},
		{Name: mallory, Namespaces: []string{mallory}, Identities: []v1.PolicyIdentities{ids(spelled(goodIDs()[0]))}},
		{Name: "another account", Namespaces: []string{mallory}, ServiceAccounts: []string{"another"}, Identities: []v1.PolicyIdentities{{}}},
	}
	return append(rules, slices.DeleteFunc(some, func(v1.PolicyRule) bool { return h.rng.IntN(3) == 0 })...)
}
