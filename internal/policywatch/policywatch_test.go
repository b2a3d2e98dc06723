package policywatch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	v1 "github.com/podid-io/podid/api/v1"
)

// apiServer serves lists of both kinds; its watches send no events.
type apiServer struct {
	noKind     atomic.Bool // AzureIdentityPolicy is unknown
	noLabels   atomic.Bool // reading namespaces is forbidden
	policies   []v1.AzureIdentityPolicy
	namespaces []corev1.Namespace
	lists      atomic.Int64 // of namespaces
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	status := func(code int, reason metav1.StatusReason) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Code: int32(code), Reason: reason, Status: metav1.StatusFailure})
	}
	query := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case resource == Policies && s.noKind.Load():
		status(http.StatusNotFound, metav1.StatusReasonNotFound)
	case resource == Namespaces && s.noLabels.Load():
		status(http.StatusForbidden, metav1.StatusReasonForbidden)
	case query.Get("watch") != "" && query.Get("sendInitialEvents") != "":
		status(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid) // no streaming lists
	case query.Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case resource == Policies:
		_ = json.NewEncoder(w).Encode(v1.AzureIdentityPolicyList{
			TypeMeta: metav1.TypeMeta{Kind: "AzureIdentityPolicyList", APIVersion: v1.GroupVersion.String()}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: s.policies,
		})
	default:
		s.lists.Add(1)
		_ = json.NewEncoder(w).Encode(corev1.NamespaceList{
			TypeMeta: metav1.TypeMeta{Kind: "NamespaceList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: s.namespaces,
		})
	}
}

// sink records the calls that it receives, in order.
type sink chan string

func (s sink) SetPolicy(p *v1.AzureIdentityPolicy) {
	if p == nil {
		s <- "no policy"
		return
	}
	s <- fmt.Sprintf("policy %s", p.Spec.Mode)
}

func (s sink) SetNamespace(name string, labels map[string]string) {
	s <- fmt.Sprintf("namespace %s %s", name, labels["team"])
}
func (s sink) RemoveNamespace(name string) { s <- "no namespace " + name }

func start(t *testing.T, api *apiServer) (*Watch, sink) {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	client := func(gv schema.GroupVersion, path string, add func(*runtime.Scheme) error) rest.Interface {
		scheme := runtime.NewScheme()
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
		c, err := rest.RESTClientFor(&rest.Config{Host: server.URL, APIPath: path, ContentConfig: rest.ContentConfig{
			GroupVersion: &gv, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	changes := make(sink, 100)
	w, err := New(Config{
		Core: client(corev1.SchemeGroupVersion, "/api", corev1.AddToScheme), Group: client(v1.GroupVersion, "/apis", v1.AddToScheme),
		Sink: changes, Note: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	go w.Run(t.Context())
	return w, changes
}

func (s sink) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, text := range want {
		select {
		case got := <-s:
			if got != text {
				t.Fatalf("told %q, want %q", got, text)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("not told: %q", text)
		}
	}
}

func thePolicy(rule ...v1.PolicyRule) v1.AzureIdentityPolicy {
	return v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce, Rules: rule}}
}

func TestNoSelector(t *testing.T) {
	other := thePolicy()
	other.Name = "other"
	api := &apiServer{policies: []v1.AzureIdentityPolicy{other, thePolicy(v1.PolicyRule{Name: "r", Namespaces: []string{"a"}})}}
	w, changes := start(t, api)
	changes.expect(t, "policy enforce")
	if !w.Wait(t.Context()) || len(w.Missing()) != 0 {
		t.Errorf("missing: %v", w.Missing())
	}
	if n := api.lists.Load(); n != 0 {
		t.Errorf("namespaces were listed %d times for a policy that does not select them", n)
	}
}

func TestSelector(t *testing.T) {
	api := &apiServer{
		policies:   []v1.AzureIdentityPolicy{thePolicy(v1.PolicyRule{Name: "r", NamespaceSelector: &metav1.LabelSelector{}})},
		namespaces: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"team": "x"}}}},
	}
	w, changes := start(t, api)
	changes.expect(t, "namespace a x", "policy enforce") // in this order: a policy never takes effect before the labels that it needs
	if !w.Wait(t.Context()) || len(w.Missing()) != 0 {
		t.Errorf("missing: %v", w.Missing())
	}
}

func TestNoKind(t *testing.T) {
	api := &apiServer{}
	api.noKind.Store(true)
	w, changes := start(t, api)
	if !w.Wait(t.Context()) {
		t.Fatal("never synced without the CRD")
	}
	select {
	case got := <-changes:
		t.Errorf("told %q", got)
	default:
	}
}

// Without the right to read namespaces the watch stays unsynced: a program that cannot evaluate the
// policy is not ready.
func TestNoRight(t *testing.T) {
	api := &apiServer{policies: []v1.AzureIdentityPolicy{thePolicy(v1.PolicyRule{Name: "r", NamespaceSelector: &metav1.LabelSelector{}})}}
	api.noLabels.Store(true)
	w, changes := start(t, api)
	changes.expect(t, "policy enforce") // closed, after labelsLimit
	if missing := w.Missing(); len(missing) != 1 || missing[0] != Namespaces {
		t.Errorf("missing: %v", missing)
	}
}
