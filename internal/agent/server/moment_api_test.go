package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/cluster"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/testenv"
)

// fed are tables that a cluster.Cluster fills.
type fed struct {
	*authorize.Table
	attest *attest.Table
}

func (f fed) SetPod(p *corev1.Pod) {
	f.Table.SetPod(identity.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels})
	f.attest.Set(p)
}

func (f fed) SetPolicy(*v1.AzureIdentityPolicy) {}

func (f fed) RemovePod(key types.NamespacedName) { f.attest.Remove(key); f.Table.RemovePod(key) }

// TestTheMomentItRuns: the identities of pods are assigned before they get their addresses. Each
// sends a request as it gets its address, before the agent is notified, and is answered right after
// that with a token that was fetched before. A slow metadata service delays none of them.
func TestTheMomentItRuns(t *testing.T) {
	config, api := startAPI(t)
	w := newWorld(t, func(s *settings) { s.server.AttestLimit = time.Minute })
	w.imds.has("one")
	w.imds.fall(func(http.ResponseWriter, *http.Request) bool { <-time.After(700 * time.Millisecond); return false })
	watch, err := cluster.New(cluster.Config{REST: config, Node: "node-1", Assigned: true}, fed{w.authorize, w.attest}, attest.Strip, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go watch.Run(ctx)
	<-watch.Synced()
	cache, ok := w.server.cfg.Tokens.(*token.Cache)
	if !ok {
		t.Fatal("no cache")
	}
	go cache.Prefetch(ctx, []string{arm}, w.authorize)

	create := func(objects ...kube.Object) {
		t.Helper()
		for _, o := range objects {
			if err := api.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	id := newIdentity("one")
	id.UID, id.Spec.ClientID = "", "" // the fake needs only the resource ID
	create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"}},
		id, &v1.AzureIdentityBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "one", Selector: "web"}})

	var waits, afterwards []time.Duration
	for i := range 40 {
		name, ip := fmt.Sprint("web-", i), fmt.Sprint("10.9.3.", i+1)
		p := aPod(name)
		create(p, assignedTo(name))
		if i == 0 {
			// Time for pulling the image.
			for len(w.imds.seen()) == 0 || cache.ObjectID(token.Request{Identity: stored(t, api)}) == "" {
				<-time.After(20 * time.Millisecond)
			}
		}
		address := w.listen(ip)
		answered := make(chan time.Time, 1)
		began := time.Now()
		go func() {
			w.get(address, tokenQuery(arm)).want(t, 200)
			answered <- time.Now()
		}()
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}
		if err := api.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		notified := time.Now()
		at := <-answered
		waits, afterwards = append(waits, at.Sub(began)), append(afterwards, max(at.Sub(notified), 0))
	}
	slices.Sort(waits)
	slices.Sort(afterwards)
	t.Logf("from the request: median %v, most %v; from when the API server knew the address: median %v, most %v",
		waits[20], waits[39], afterwards[20], afterwards[39])
	if n := len(w.imds.seen()); n != 1 {
		t.Errorf("%d calls to the metadata service, want the one ahead of the first request", n)
	}
}

// startAPI starts an API server with our kinds.
func startAPI(t *testing.T) (*rest.Config, kube.Client) {
	config := testenv.Start(t, testenv.WithCRDs).Config
	return config, testenv.Client(t, config, v1.AddToScheme, corev1.AddToScheme)
}

// stored returns the identity from the API server.
func stored(t *testing.T, api kube.Client) *v1.AzureIdentity {
	t.Helper()
	var id v1.AzureIdentity
	if err := api.Get(t.Context(), nameOf("one"), &id); err != nil {
		t.Fatal(err)
	}
	return &id
}

func aPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{v1.BindingLabel: "web"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func assignedTo(pod string) *v1.AzureAssignedIdentity {
	spec := newIdentity("one").Spec
	spec.ClientID = ""
	return &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod + "-shop-one", Labels: map[string]string{v1.NodeNameLabel: "node-1"}},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: "shop", NodeName: "node-1",
			AzureIdentityRef: &v1.AzureIdentityCopy{APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentity", ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "one"}, Spec: spec},
			AzureBindingRef:  &v1.AzureIdentityBindingCopy{APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentityBinding", ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.StateAssigned},
	}
}
