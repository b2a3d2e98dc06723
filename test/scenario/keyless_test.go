// Identities that are on no machine: NMI itself gets their tokens from Entra ID.

package scenario_test

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/sandbox"
)

// keyless: a federated identity needs no key and nothing on the nodes. Entra ID is configured once
// to trust the cluster; after that the cluster's signature is sufficient.
func keyless(s *story) {
	issuer := s.trustCluster()
	id := unknownIdentity("keyless")
	object := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "keyless"},
		Spec:       v1.AzureIdentitySpec{Type: v1.Federated, ClientID: id.ClientID, TenantID: sandbox.TenantID},
	}
	broker, err := identity.Broker(object)
	s.must(err)
	id.FederatedCredentials = []world.FederatedCredential{{Issuer: issuer, Subject: identity.BrokerSubject(identity.DefaultBrokerNamespace, broker)}}
	s.must(s.azure.control.PutIdentity(s.Context(), id))
	s.must(s.Create(s.Context(), object))
	s.bindTo(s.ns, "keyless", "keyless")

	since := s.mark()
	p := s.probe(s.ns, "pod", "keyless")
	s.token(p, "", id)
	s.token(p, "&client_id="+id.ClientID, id)
	if on, err := s.azure.onNodes(s.Context(), id); on || err != nil {
		s.Errorf("the identity is on the nodes: %t, %v; it needs to be nowhere", on, err)
	}
	for _, r := range s.requests(since, world.Filter{Surface: "imds"}) {
		if r.Details["clientID"] == id.ClientID {
			s.Errorf("the metadata service was asked for it: %+v", r)
		}
	}

	// The broker of another identity does not stand for this one: Entra ID refuses what it is not
	// configured for.
	stranger := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "stranger"},
		Spec:       v1.AzureIdentitySpec{Type: v1.Federated, ClientID: id.ClientID, TenantID: sandbox.TenantID},
	}
	s.must(s.Create(s.Context(), stranger))
	s.bindTo(s.ns, "stranger", "stranger")
	s.refused(s.probe(s.ns, "thief", "stranger"), "", 403, "AADSTS", minute)
}

// withSecret: a service principal's secret stays in its Secret, which NMI reads when it needs a
// token, if it has permission.
func withSecret(s *story) {
	app := world.Application{
		Name: "app", ClientID: world.GUID("app/client"), PrincipalID: world.GUID("app/principal"), TenantID: sandbox.TenantID, Secret: "the-first-secret",
	}
	s.must(s.azure.control.PutApplication(s.Context(), app))
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "app"}, StringData: map[string]string{"clientSecret": app.Secret}}
	s.must(s.Create(s.Context(), secret))
	s.must(s.Create(s.Context(), &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "app"},
		Spec: v1.AzureIdentitySpec{
			Type: v1.ServicePrincipal, ClientID: app.ClientID, TenantID: sandbox.TenantID, ClientPassword: v1.SecretReference{Name: "app", Namespace: s.ns},
		},
	}))
	s.bindTo(s.ns, "app", "app")
	p := s.probe(s.ns, "pod", "app")
	s.refused(p, "", 403, "rbac.secretNamespaces", minute)

	s.mayReadSecrets(s.ns)
	s.tokenAtLast(p, world.Identity{ClientID: app.ClientID, PrincipalID: app.PrincipalID})
}

// minute, in milliseconds, is for answers that involve Entra ID or the API server.
const minute = 60_000

// tokenAtLast asks until there is a token, because a refusal is cached for some seconds.
func (s *story) tokenAtLast(p *corev1.Pod, want world.Identity) {
	s.Helper()
	ctx, cancel := s.soon("pod " + p.Name + " has its token")
	defer cancel()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for s.ask(p, get(tokenAsk))[0].Status != 200 {
		select {
		case <-again.C:
		case <-ctx.Done():
			s.Fatalf("pod %s has no token: %v", p.Name, s.ask(p, get(tokenAsk))[0])
		}
	}
	s.token(p, "", want)
}

// trustCluster gives Entra ID the cluster's keys, and returns the cluster's issuer.
func (s *story) trustCluster() string {
	s.Helper()
	raw, err := s.pods.Discovery().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(s.Context())
	s.must(err)
	var configuration struct {
		Issuer string `json:"issuer"`
	}
	s.must(json.Unmarshal(raw, &configuration))
	keys, err := s.pods.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(s.Context())
	s.must(err)
	s.must(s.azure.control.PutIssuer(s.Context(), world.Issuer{Issuer: configuration.Issuer, JWKS: string(keys)}))
	return configuration.Issuer
}

// bindTo binds pods with the label to an existing identity.
func (s *story) bindTo(ns, name, label string) {
	s.Helper()
	s.must(s.Create(s.Context(), &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: label},
	}))
}

// mayReadSecrets grants NMI what the chart's rbac.secretNamespaces grants.
func (s *story) mayReadSecrets(ns string) {
	s.Helper()
	meta := metav1.ObjectMeta{Namespace: ns, Name: daemons + "-secrets"}
	s.must(s.Create(s.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}}}))
	s.must(s.Create(s.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: release, Name: daemons}},
	}))
}
