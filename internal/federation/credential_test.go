package federation_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/federation"
)

const (
	guid   = "b9fe2d38-5f0c-4a0c-9a5e-1c9d4d7a7f01"
	issuer = "https://westeurope.oic.prod-aks.azure.com/tenant/cluster/"
)

func federated(change ...func(*v1.AzureIdentity)) *v1.AzureIdentity {
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "shop.v1"},
		Spec:       v1.AzureIdentitySpec{Type: v1.Federated, ClientID: guid, TenantID: guid},
	}
	for _, f := range change {
		f(id)
	}
	return id
}

func managed(i *v1.AzureIdentity) {
	i.Spec.ResourceID = "/subscriptions/" + guid + "/resourceGroups/apps (old)/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"
}

func cluster() federation.Cluster {
	return federation.Cluster{Name: "prod", Issuer: issuer, BrokerNamespace: "podid-brokers", Cloud: "AzurePublicCloud"}
}

func TestCommand(t *testing.T) {
	const hash = "-2a4d2d9c"
	for _, tt := range []struct {
		name string
		id   *v1.AzureIdentity
		want string
	}{
		{
			"managed identity", federated(func(i *v1.AzureIdentity) {
				i.Spec.ResourceID = "/subscriptions/" + guid + "/resourceGroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"
			}),
			"az identity federated-credential create --name podid-prod-web-shop-v1" + hash + " --identity-name shop --resource-group apps --subscription " + guid +
				" --issuer " + issuer + " --subject system:serviceaccount:podid-brokers:web.shop.v1 --audiences api://AzureADTokenExchange",
		},
		{
			"application", federated(func(i *v1.AzureIdentity) { i.Spec.FederatedAudience = "it's" }),
			"az ad app federated-credential create --id " + guid + ` --parameters '{"audiences":["it'\''s"],"description":"pods of this cluster, by podid","issuer":"` + issuer +
				`","name":"podid-prod-web-shop-v1` + hash + `","subject":"system:serviceaccount:podid-brokers:web.shop.v1"}'`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := federation.For(tt.id, cluster())
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Command(); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestShell: a shell splits the command into exactly the given arguments.
func TestShell(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell")
	}
	c, err := federation.For(federated(func(i *v1.AzureIdentity) { i.Spec.FederatedAudience = "$(id);'\"`id`" }, func(i *v1.AzureIdentity) {
		i.Spec.ResourceID = "/subscriptions/" + guid + "/resourceGroups/apps(old)/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"
	}), cluster())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), sh, "-c", "az() { for w; do echo \"<$w>\"; done; }; "+c.Command()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, word := range []string{"<apps(old)>\n", "<$(id);'\"`id`>\n", "<" + issuer + ">\n"} {
		if !strings.Contains(string(out), word) {
			t.Errorf("no word %q in\n%s", word, out)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		id   *v1.AzureIdentity
		want string
	}{
		{"other type", federated(func(i *v1.AzureIdentity) { i.Spec.Type = v1.UserAssignedMSI }), "set spec.type to 3"},
		{"shared", federated(func(i *v1.AzureIdentity) { i.Spec.SharedFrom = v1.IdentityReference{Namespace: "a", Name: "b"} }), "podid identity federate b -n a"},
		{"no tenant", federated(func(i *v1.AzureIdentity) { i.Spec.TenantID = "" }), "needs spec.tenantID"},
		{"resource ID wrong", federated(managed), "spec.resourceID"},
		{"name too long", federated(func(i *v1.AzureIdentity) { i.Name = strings.Repeat("x", 250) }), "characters long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := federation.For(tt.id, cluster()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestNames: names are valid on Azure, and unique to an identity and a cluster.
func TestNames(t *testing.T) {
	shape := regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{2,119}$`)
	seen := map[string]string{}
	for _, name := range []string{"a-b", "a.b", strings.Repeat("x", 120), strings.Repeat("x", 121)} {
		for _, where := range []federation.Cluster{cluster(), {Issuer: issuer + "2", Name: "prod"}, {Issuer: issuer + "3"}, {Issuer: issuer + "4", Name: "gke_Ü:x/y"}} {
			c, err := federation.For(federated(func(i *v1.AzureIdentity) { i.Name = name }), where)
			if err != nil {
				t.Fatal(err)
			}
			if !shape.MatchString(c.Name) {
				t.Errorf("Azure does not take the name %q", c.Name)
			}
			what := name + " " + where.Issuer
			if other, taken := seen[c.Name]; taken {
				t.Errorf("%s and %s are both %s", what, other, c.Name)
			}
			seen[c.Name] = what
		}
	}
}

func TestCheckIssuer(t *testing.T) {
	for _, tt := range []struct{ issuer, want string }{
		{issuer, ""},
		{"https://oidc.example.com", ""},
		{"https://20.1.2.3/x", ""},
		{"", "does not say who issues"},
		{"https://kubernetes.default.svc.cluster.local", "not public"},
		{"https://kubernetes.default.svc", "not public"},
		{"https://kubernetes", "not public"},
		{"https://localhost:6443", "not public"},
		{"https://127.0.0.1:6443/", "not public"},
		{"https://10.0.0.1", "not public"},
		{"https://[fd00::1]", "not public"},
		{"http://oidc.example.com", "no https URL"},
		{"kubernetes/serviceaccount", "no https URL"},
		{"https://", "no https URL"},
		{" https://oidc.example.com", "no https URL"},
		{"https://oidc.example.com/" + strings.Repeat("x", 600), "Azure takes 600"},
	} {
		t.Run(tt.issuer, func(t *testing.T) {
			err := federation.CheckIssuer(tt.issuer)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), "--service-account-issuer") {
				t.Errorf("%v says no remedy", err)
			}
		})
	}
}

func TestCheckKeys(t *testing.T) {
	if err := federation.CheckKeys(federation.Discovery{Algorithms: []string{"ES256", "RS256"}}); err != nil {
		t.Error(err)
	}
	if err := federation.CheckKeys(federation.Discovery{}); err != nil {
		t.Error(err)
	}
	if err := federation.CheckKeys(federation.Discovery{Algorithms: []string{"ES256"}}); err == nil || !strings.Contains(err.Error(), "RS256 only") {
		t.Errorf("got %v", err)
	}
}
