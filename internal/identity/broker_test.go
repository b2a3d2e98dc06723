package identity_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

func federated(change ...func(*v1.AzureIdentity)) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) {
		i.Spec = v1.AzureIdentitySpec{Type: v1.Federated, TenantID: guidA, ClientID: guidB}
		for _, f := range change {
			f(i)
		}
	}
}

func sharedFrom(namespace, name string) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) {
		i.Spec.SharedFrom = v1.IdentityReference{Namespace: namespace, Name: name}
	}
}

func allowing(namespaces string) func(*v1.AzureIdentity) {
	return func(i *v1.AzureIdentity) {
		i.Annotations = map[string]string{v1.AllowedNamespacesAnnotation: namespaces}
	}
}

func TestBroker(t *testing.T) {
	long := strings.Repeat("n", 63)
	for _, tt := range []struct {
		name string
		id   *v1.AzureIdentity
		want string // "" is a refusal
		why  string
	}{
		{"its own", id("shop", "web", federated()), "shop.web", ""},
		{"dots in the name", id("shop", "web.v1", federated()), "shop.web.v1", ""},
		{"shared", id("shop", "web", federated(sharedFrom("platform", "web"))), "platform.web", ""},
		{"longest", id(long, strings.Repeat("x", 189), federated()), long + "." + strings.Repeat("x", 189), ""},
		{"too long", id(long, strings.Repeat("x", 190), federated()), "", "254 characters long"},
		{"other type", id("shop", "web"), "", "only type 3"},
		{"dot in the namespace", id("shop", "web", federated(sharedFrom("a.b", "c"))), "", "<namespace>.<name>"},
		{"half a reference", id("shop", "web", federated(sharedFrom("a", ""))), "", "<namespace>.<name>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := identity.Broker(tt.id)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("got %q, %v, want %q", got, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%v does not say %q", err, tt.why)
			}
		})
	}
	if got, want := identity.BrokerSubject("podid-brokers", "shop.web"), "system:serviceaccount:podid-brokers:shop.web"; got != want {
		t.Errorf("subject %s, want %s", got, want)
	}
}

func TestAudience(t *testing.T) {
	for _, tt := range []struct{ name, spec, endpoint, cloud, want string }{
		{"public", "", "", "AzurePublicCloud", "api://AzureADTokenExchange"},
		{"unknown cloud", "", "", "", "api://AzureADTokenExchange"},
		{"government", "", "", "azureusgovernmentcloud", "api://AzureADTokenExchangeUSGov"},
		{"china", "", "", "AzureChinaCloud", "api://AzureADTokenExchangeChina"},
		{"endpoint before cloud", "", "https://login.microsoftonline.com/", "AzureChinaCloud", "api://AzureADTokenExchange"},
		{"endpoint's cloud", "", "https://Login.MicrosoftOnline.us", "AzurePublicCloud", "api://AzureADTokenExchangeUSGov"},
		{"not that host", "", "https://login.microsoftonline.us.example.com/", "", "api://AzureADTokenExchange"},
		{"spec before all", "x", "https://login.microsoftonline.us/", "AzureChinaCloud", "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := id("a", "b", federated(func(i *v1.AzureIdentity) {
				i.Spec.FederatedAudience, i.Spec.ADEndpoint = tt.spec, tt.endpoint
			}))
			if got := identity.FederatedAudience(i, tt.cloud); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestSharing checks who may use which broker: only with the owner's consent, and only for the very
// identity of the owner.
func TestSharing(t *testing.T) {
	borrower := func(change ...func(*v1.AzureIdentity)) *v1.AzureIdentity {
		return id("shop", "web", federated(append([]func(*v1.AzureIdentity){sharedFrom("platform", "cloud")}, change...)...))
	}
	owner := func(change ...func(*v1.AzureIdentity)) *v1.AzureIdentity {
		return id("platform", "cloud", federated(change...))
	}
	both := func(i *v1.AzureIdentity) {
		i.Annotations = map[string]string{v1.AllowedNamespacesAnnotation: "*", v1.BehaviorAnnotation: "namespaced"}
	}
	for _, tt := range []struct {
		name            string
		borrower, owner *v1.AzureIdentity
		why             string // "" is consent
	}{
		{"allowed", borrower(), owner(allowing("shop")), ""},
		{"one of several", borrower(), owner(allowing("a, shop ,b")), ""},
		{"all", borrower(), owner(allowing("*")), ""},
		{"case of ids", borrower(func(i *v1.AzureIdentity) { i.Spec.ClientID = strings.ToUpper(guidB) }), owner(allowing("*")), ""},
		{"no owner", borrower(), id("platform", "other", federated(allowing("*"))), "does not exist"},
		{"no word of the owner's", borrower(), owner(), "or does not allow namespace shop"},
		{"others", borrower(), owner(allowing("shop2,sho,SHOP,s*")), "or does not allow namespace shop"},
		{"empty word", borrower(), owner(allowing("")), "does not allow"},
		{"namespaced owner", borrower(), owner(both), "does not allow"},
		{"a word of its own", borrower(allowing("*")), owner(), "does not allow"},
		{"owner is leaving", borrower(), owner(allowing("*"), func(i *v1.AzureIdentity) {
			i.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}), "does not exist"},
		{"owner of another type", borrower(), id("platform", "cloud", allowing("*")), "not of type 3"},
		{"a chain", borrower(), owner(allowing("*"), sharedFrom("third", "x")), "itself shared"},
		{"other application", borrower(func(i *v1.AzureIdentity) { i.Spec.ClientID = guidA }), owner(allowing("*")), "clientID"},
		{"other tenant", borrower(func(i *v1.AzureIdentity) { i.Spec.TenantID = guidB }), owner(allowing("*")), "tenantID"},
		{"sent elsewhere", borrower(func(i *v1.AzureIdentity) { i.Spec.ADEndpoint = "https://evil.example/" }), owner(allowing("*")), "adEndpoint"},
		{"other audience", borrower(func(i *v1.AzureIdentity) { i.Spec.FederatedAudience = "x" }), owner(allowing("*")), "federatedAudience"},
		{"further tenant", borrower(func(i *v1.AzureIdentity) { i.Spec.AuxiliaryTenantIDs = []string{guidA} }), owner(allowing("*")), "auxiliaryTenantIDs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bindings := []*v1.AzureIdentityBinding{bind("shop", "b", "demo", "web", 0)}
			grants, refusals := identity.Rules{ForceNamespaced: true}.Grants(pod("shop", "demo"), bindings, lookup(tt.borrower, tt.owner))
			if tt.why == "" {
				if len(grants) != 1 || len(refusals) != 0 {
					t.Errorf("got %v, %v, want a grant", granted(grants), refusals)
				}
				return
			}
			if len(grants) != 0 || len(refusals) != 1 || refusals[0].Reason != reason.NotShared ||
				!strings.Contains(refusals[0].Message, tt.why) || refusals[0].Binding != bindings[0] {
				t.Errorf("got %v, %v, want a refusal with %q", granted(grants), refusals, tt.why)
			}
		})
	}
}

// TestSharingLookup checks that a lookup that returns a different object is not a consent.
func TestSharingLookup(t *testing.T) {
	borrower := id("shop", "web", federated(sharedFrom("platform", "cloud")))
	wrong := id("evil", "cloud", federated(allowing("*")))
	grants, _ := identity.Rules{}.Grants(pod("shop", "demo"), []*v1.AzureIdentityBinding{bind("shop", "b", "demo", "web", 0)},
		func(namespace, _ string) *v1.AzureIdentity {
			if namespace == "shop" {
				return borrower
			}
			return wrong
		})
	if len(grants) != 0 {
		t.Errorf("granted %v", granted(grants))
	}
}
