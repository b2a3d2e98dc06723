// Who gets which tokens of brokers: real tokens of real service accounts, with the chart's role and
// policies.

package chart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

const brokers = "podid-brokers"

// wish is a TokenRequest for the broker shop.web, of NMI on node red unless specified.
type wish struct {
	audiences []string
	seconds   int64
	bound     *authenticationv1.BoundObjectReference
	broker    string
}

func (w wish) ask(t *testing.T, api client.Client) (string, error) {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: w.audiences, BoundObjectRef: w.bound}}
	if w.seconds != 0 {
		request.Spec.ExpirationSeconds = &w.seconds
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: w.broker}}
	err := api.SubResource("token").Create(t.Context(), account, request)
	return request.Status.Token, err
}

// brokerPolicy requires the chart to be installed as "podid".
func brokerPolicy(t *testing.T, api cluster) {
	testenv.Create(t, api, node("red"), node("blue"),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "shop.web"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}})
	nmi := api.agentOn(t, "red")
	to := func(name string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: name}
	}
	entra := []string{"api://AzureADTokenExchange"}
	good := wish{entra, 600, to("red"), "shop.web"}
	ask := func(who client.Client, w wish) func() error {
		return func() error { _, err := w.ask(t, who); return err }
	}
	api.attempts(t, map[string]attempt{
		"as NMI asks":            {ask(nmi, good), ""},
		"not bound":              {ask(nmi, wish{entra, 600, nil, "shop.web"}), ""},
		"of another cloud":       {ask(nmi, wish{[]string{"api://AzureADTokenExchangeChina"}, 600, nil, "shop.web"}), ""},
		"for the API server":     {ask(nmi, wish{nil, 600, to("red"), "shop.web"}), "for Entra ID alone"},
		"for another party":      {ask(nmi, wish{[]string{"sts.amazonaws.com"}, 600, to("red"), "shop.web"}), "for Entra ID alone"},
		"for two":                {ask(nmi, wish{append([]string{"vault"}, entra...), 600, to("red"), "shop.web"}), "for Entra ID alone"},
		"for long":               {ask(nmi, wish{entra, 3600, to("red"), "shop.web"}), "valid for ten minutes"},
		"for the default time":   {ask(nmi, wish{entra, 0, to("red"), "shop.web"}), "valid for ten minutes"},
		"bound to another node":  {ask(nmi, wish{entra, 600, to("blue"), "shop.web"}), "bound to the node of the agent"},
		"not from a pod":         {ask(api.serviceAccount(t, namespace, "podid-nmi"), good), "from within its pod only"},
		"an administrator's":     {ask(api, good), "only podid's node agent"},
		"of MIC":                 {ask(api.serviceAccount(t, namespace, "podid-mic"), good), "cannot create resource"},
		"of another workload":    {ask(api.serviceAccount(t, "default", "other"), good), "cannot create resource"},
		"of the broker itself":   {ask(api.serviceAccount(t, "default", "default"), good), "cannot create resource"},
		"of a broker not there":  {ask(nmi, wish{entra, 600, to("red"), "shop.gone"}), "not found"},
		"of the default account": {ask(nmi, wish{entra, 600, to("red"), "default"}), "not found"},
		"bound to another pod":   {ask(nmi, wish{entra, 600, &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "x"}, "shop.web"}), "bound to the node of the agent"},
		"a pod": {func() error {
			return api.Create(t.Context(), &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "thief"},
				Spec:       corev1.PodSpec{ServiceAccountName: "shop.web", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			}, client.DryRunAll)
		}, "no pod may run as a broker"},
	})
	t.Run("the token", func(t *testing.T) {
		token, err := good.ask(t, nmi)
		if err != nil {
			t.Fatal(err)
		}
		brokerClaims(t, token)
	})
}

// brokersByNode requires the chart to be installed with federation.limitToNodes, and the objects of
// brokerPolicy. MIC's writes use MIC's own permissions.
func brokersByNode(t *testing.T, api cluster) {
	good := wish{[]string{"api://AzureADTokenExchange"}, 600, nil, "shop.web"}
	red, blue := api.agentOn(t, "red"), api.agentOn(t, "blue")
	mic := api.micOn(t, "red")
	refused := func(who client.Client) error {
		_, err := good.ask(t, who)
		if err == nil || !strings.Contains(err.Error(), "no pod on the node uses the identity") {
			return fmt.Errorf("got %w, want a refusal", err)
		}
		return nil
	}
	testenv.Succeeds(t, "the limit", func() error { return refused(red) })
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "podid:node:red"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"aadpodidentity.k8s.io"}, Resources: []string{"brokers"}, ResourceNames: []string{"shop.web"}, Verbs: []string{"use"},
	}}}
	for _, o := range []client.Object{role, &rbacv1.RoleBinding{
		ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: brokers, Name: "red"}},
	}} {
		if err := mic.Create(t.Context(), o); err != nil {
			t.Fatalf("as MIC: %v", err)
		}
	}
	testenv.Succeeds(t, "a token for red", func() error { _, err := good.ask(t, red); return err })
	if err := refused(blue); err != nil {
		t.Errorf("on another node: %v", err)
	}
	other := good
	other.broker = "shop.other"
	testenv.Create(t, api, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: brokers, Name: "shop.other"}})
	if _, err := other.ask(t, red); err == nil || !strings.Contains(err.Error(), "no pod on the node uses") {
		t.Errorf("another broker: %v", err)
	}
	role.Name = "more"
	role.ResourceVersion, role.UID = "", ""
	role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}}}
	if err := mic.Create(t.Context(), role); err == nil || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
		t.Errorf("MIC hands out more than it has: %v", err)
	}
}

// brokerClaims checks the claims that Entra ID sees.
func brokerClaims(t *testing.T, token string) {
	t.Helper()
	claims := testenv.ParseToken(t, token)
	if claims.Subject != "system:serviceaccount:podid-brokers:shop.web" || len(claims.Audiences) != 1 ||
		claims.Life() > 10*time.Minute || claims.Kubernetes.Node.Name != "red" {
		t.Errorf("the token says %+v", claims)
	}
}
