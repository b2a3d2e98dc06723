package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/entra"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/reason"
	"github.com/podid-io/podid/internal/testenv"
)

// TestObjects reads Secrets and broker tokens from a real API server, with an agent's permissions
// and without them.
func TestObjects(t *testing.T) {
	server := testenv.Start(t)
	api := testenv.Client(t, server.Config)
	agent, err := server.AddUser(envtest.User{Name: "agent"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := NewObjects(agent.Config(), "node-1", "podid-brokers")
	if err != nil {
		t.Fatal(err)
	}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	grant := func(namespace, resource, verb string) {
		testenv.GrantIn(t, api, "agent", namespace, "agent", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{verb}})
	}
	testenv.Create(t, api, &corev1.Namespace{ObjectMeta: meta("", "shop")}, &corev1.Namespace{ObjectMeta: meta("", "podid-brokers")},
		&corev1.Secret{ObjectMeta: meta("shop", "web"), Data: map[string][]byte{"clientSecret": []byte("s3cret")}},
		&corev1.Node{ObjectMeta: meta("", "node-1")}, &corev1.ServiceAccount{ObjectMeta: meta("podid-brokers", "shop.web")})

	// Without permission, and the message that the pod gets.
	if _, err := objects.Secret(t.Context(), "shop", "web"); !apierrors.IsForbidden(err) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("without permission: %v", err)
	}
	if _, err := objects.BrokerToken(t.Context(), "shop.web", "api://x"); !apierrors.IsForbidden(err) {
		t.Errorf("without permission: %v", err)
	}
	expectMessage(t, objects, v1.ServicePrincipal, http.StatusForbidden, "may not read Secret shop/web of AzureIdentity shop/web: it lacks a Role in namespace shop")
	expectMessage(t, objects, v1.Federated, http.StatusNotFound, "gets no token of ServiceAccount podid-brokers/shop.web")

	grant("shop", "secrets", "get")
	grant("podid-brokers", "serviceaccounts/token", "create")
	testenv.Succeeds(t, "the right to the Secret", func() error {
		data, err := objects.Secret(t.Context(), "shop", "web")
		if err == nil && string(data["clientSecret"]) != "s3cret" {
			return fmt.Errorf("read %q", data)
		}
		return err
	})
	if _, err := objects.Secret(t.Context(), "shop", "gone"); !apierrors.IsNotFound(err) {
		t.Errorf("a Secret that does not exist: %v", err)
	}
	if _, err := objects.BrokerToken(t.Context(), "shop.gone", "api://x"); !apierrors.IsNotFound(err) {
		t.Errorf("a broker that does not exist: %v", err)
	}
	testenv.Succeeds(t, "the right to the token", func() error {
		_, err := objects.BrokerToken(t.Context(), "shop.web", "api://x")
		return err
	})
	jwt, err := objects.BrokerToken(t.Context(), "shop.web", "api://AzureADTokenExchange")
	if err != nil {
		t.Fatal(err)
	}
	claims := testenv.ParseToken(t, jwt)
	if claims.Subject != "system:serviceaccount:podid-brokers:shop.web" || len(claims.Audiences) != 1 || claims.Audiences[0] != "api://AzureADTokenExchange" ||
		claims.Life() != 10*time.Minute || claims.Kubernetes.Node.Name != "node-1" {
		t.Errorf("%+v for %v", claims, claims.Life())
	}
	// If the node does not exist, there is no token rather than an unbound one.
	strange, err := NewObjects(agent.Config(), "node-9", "podid-brokers")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := strange.BrokerToken(t.Context(), "shop.web", "api://x"); err == nil {
		t.Error("a token for a node that does not exist")
	}
}

// expectMessage makes a source fail because a permission is missing, and checks the message to the
// pod.
func expectMessage(t *testing.T, objects *Objects, kind v1.IdentityType, status int, want string) {
	t.Helper()
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:       v1.AzureIdentitySpec{Type: kind, TenantID: "t", ClientID: "c", ClientPassword: v1.SecretReference{Name: "web"}},
	}
	c := entra.Config{Calls: source.Calls{Limiter: free{}}}
	source := entra.NewClientSecret(c, objects)
	if kind == v1.Federated {
		source = entra.NewFederated(c, entra.Federation{Brokers: objects, Namespace: "podid-brokers"})
	}
	_, err := source.Token(t.Context(), token.Request{Identity: id, Resource: "https://vault.azure.net"})
	if f := reason.AsRefusal(err); f == nil || f.Answer().Status != status || !strings.Contains(f.Message, want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestOldAPIServer: if the API server cannot bind tokens to nodes, tokens are unbound, and the
// agent does not try to bind each of them.
func TestOldAPIServer(t *testing.T) {
	var bound, unbound int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			Spec struct {
				BoundObjectRef *struct{ Kind, Name string }
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		if request.Spec.BoundObjectRef != nil {
			bound++
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", nil).Status())
			return
		}
		unbound++
		_, _ = w.Write([]byte(`{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","status":{"token":"a.b.c"}}`))
	}))
	defer server.Close()
	objects, err := NewObjects(&rest.Config{Host: server.URL}, "node-1", "podid-brokers")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, err := objects.BrokerToken(t.Context(), "shop.web", "api://x"); err != nil || got != "a.b.c" {
			t.Fatalf("%q %v", got, err)
		}
	}
	if bound != 1 || unbound != 3 {
		t.Errorf("%d bound, %d unbound", bound, unbound)
	}
}

type free struct{}

func (free) Acquire(context.Context, string) (func(), error) { return func() {}, nil }
func (free) StayAway(time.Duration)                          {}
