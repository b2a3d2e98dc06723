package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// TestCluster runs against a real API server: the sink receives what exists and every change, and
// objects stay known while the API server is unreachable.
func TestCluster(t *testing.T) {
	config := testenv.Start(t).Config

	// The kinds do not exist yet: Ready returns that.
	sink := &recorder{changes: make(chan string, 100)}
	proxy := testenv.NewProxy(t, config)
	proxied := rest.CopyConfig(config)
	proxied.Host = "https://" + proxy.Address
	c, stop := watch(t, proxied, sink)
	defer stop()
	awaitReason(t, c, "azureidentities", "could not find")
	testenv.InstallCRDs(t, config)
	select {
	case <-c.Synced():
	case <-time.After(time.Minute):
		t.Fatalf("not synced: %v", c.Ready())
	}
	if err := c.Ready(); err != nil {
		t.Error(err)
	}

	api := testenv.Client(t, config, corev1.AddToScheme, v1.AddToScheme)
	testenv.Create(t, api, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	web := newPod("web", "node-1")
	testenv.Create(t, api, newPod("elsewhere", "node-2"), web, newPod("mine", "node-1"))
	sink.expect(t, "pod web", "pod mine")
	web.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.5", PodIPs: []corev1.PodIP{{IP: "10.0.0.5"}}}
	if err := api.Status().Update(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	sink.expect(t, "pod web 10.0.0.5")

	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one", Annotations: map[string]string{v1.BehaviorAnnotation: "namespaced", "other": "x"}, Labels: map[string]string{"a": "b"}},
		Spec:       v1.AzureIdentitySpec{ResourceID: "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one", ClientID: "11111111-1111-1111-1111-111111111111"},
	}
	binding := &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "one", Selector: "web"}}
	exception := &v1.AzurePodIdentityException{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, Spec: v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"x": "y"}}}
	testenv.Create(t, api, id, binding, exception, newAssigned("web", "node-1"), newAssigned("elsewhere", "node-2"))
	sink.expect(t, "identity one annotations 1 labels 0", "binding b", "exception e", "assigned web")

	if err := api.Delete(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(t.Context(), web, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	sink.expect(t, "binding b gone", "pod web gone")

	policy := &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: v1.PolicyName}, Spec: v1.AzureIdentityPolicySpec{Mode: v1.PolicyWarn}}
	testenv.Create(t, api, policy)
	sink.expect(t, "policy warn")
	testenv.Create(t, api, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "labelled", Labels: map[string]string{"team": "x"}}})
	policy.Spec = v1.AzureIdentityPolicySpec{Mode: v1.PolicyEnforce, Rules: []v1.PolicyRule{{
		Name: "r", NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}, PlainIMDS: true,
	}}}
	if err := api.Update(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	sink.expect(t, "namespace labelled x", "policy enforce")
	if err := api.Delete(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	sink.expect(t, "no policy")

	nodeChanges(t, config, api)

	// The API server becomes unreachable and comes back. Changes in between are received.
	proxy.Close()
	testenv.Create(t, api, newPod("later", "node-1"))
	if err := c.Ready(); err != nil {
		t.Errorf("unreachable: %v, want ready with the known objects", err)
	}
	proxy.Open()
	sink.expect(t, "pod later")
}

// TestNoAPIServer starts without an API server.
func TestNoAPIServer(t *testing.T) {
	sink := &recorder{changes: make(chan string, 10)}
	c, stop := watch(t, &rest.Config{Host: "https://127.0.0.1:1"}, sink)
	awaitReason(t, c, "reach the API server", "refused")
	stop()
	select {
	case <-c.Synced():
		t.Error("synced without an API server")
	default:
	}
}

func watch(t *testing.T, config *rest.Config, sink Sink) (*Cluster, func()) {
	t.Helper()
	c, err := New(Config{REST: config, Node: "node-1", Assigned: true}, sink, func(*corev1.Pod) {}, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	return c, func() { cancel(); <-done }
}

// awaitReason waits until a cluster is not ready for a reason that contains all parts.
func awaitReason(t *testing.T, c *Cluster, parts ...string) {
	t.Helper()
	testenv.Eventually(t, "the reason", func() string {
		reason := fmt.Sprint(c.Ready())
		for _, part := range parts {
			if !strings.Contains(reason, part) {
				return reason
			}
		}
		return ""
	})
}

func newPod(name, node string) *corev1.Pod {
	no := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{v1.BindingLabel: name}},
		Spec:       corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func newAssigned(pod, node string) *v1.AzureAssignedIdentity {
	return &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod + "-default-one", Labels: map[string]string{v1.NodeNameLabel: node}},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: "default", NodeName: node,
			AzureIdentityRef: &v1.AzureIdentityCopy{APIVersion: "aadpodidentity.k8s.io/v1", Kind: "AzureIdentity", ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one"}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.StateCreated},
	}
}

// recorder records what a sink receives.
type recorder struct{ changes chan string }

// expect waits until all of these were received, in any order.
func (r *recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	deadline := time.After(time.Minute)
	for len(missing) > 0 {
		select {
		case got := <-r.changes:
			if strings.Contains(got, "elsewhere") {
				t.Errorf("received for another node: %s", got)
			}
			delete(missing, got)
		case <-deadline:
			t.Fatalf("not received: %v", missing)
		}
	}
}

func (r *recorder) record(format string, args ...any) {
	r.changes <- strings.TrimSpace(fmt.Sprintf(format, args...))
}

func (r *recorder) SetPod(p *corev1.Pod)                   { r.record("pod %s %s", p.Name, p.Status.PodIP) }
func (r *recorder) RemovePod(k types.NamespacedName)       { r.record("pod %s gone", k.Name) }
func (r *recorder) SetBinding(b *v1.AzureIdentityBinding)  { r.record("binding %s", b.Name) }
func (r *recorder) RemoveBinding(k types.NamespacedName)   { r.record("binding %s gone", k.Name) }
func (r *recorder) RemoveIdentity(k types.NamespacedName)  { r.record("identity %s gone", k.Name) }
func (r *recorder) RemoveException(k types.NamespacedName) { r.record("exception %s gone", k.Name) }
func (r *recorder) SetPolicy(p *v1.AzureIdentityPolicy) {
	if p == nil {
		r.record("no policy")
		return
	}
	r.record("policy %s", p.Spec.Mode)
}

func (r *recorder) SetNamespace(name string, labels map[string]string) {
	r.record("namespace %s %s", name, labels["team"])
}
func (r *recorder) RemoveNamespace(name string) { r.record("namespace %s gone", name) }

func (r *recorder) RemoveAssigned(k types.NamespacedName) { r.record("assigned %s gone", k.Name) }

func (r *recorder) SetIdentity(id *v1.AzureIdentity) {
	r.record("identity %s annotations %d labels %d", id.Name, len(id.Annotations), len(id.Labels))
}

func (r *recorder) SetException(e *v1.AzurePodIdentityException) { r.record("exception %s", e.Name) }

func (r *recorder) SetAssigned(a *v1.AzureAssignedIdentity) { r.record("assigned %s", a.Spec.Pod) }
