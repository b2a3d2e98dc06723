package controllers_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/controllers"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/logging"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/testenv"
)

const (
	subscription = "11111111-2222-3333-4444-555555555555"
	waitLimit    = 30 * time.Second
	ledgerName   = "ledger"
)

// startServer starts an API server with podid's kinds.
func startServer(t testing.TB) *rest.Config {
	t.Helper()
	kube := testenv.Start(t, testenv.WithCRDs).Config
	kube.QPS, kube.Burst = 1000, 2000
	return kube
}

// stories are tests by their names, for runStories.
type stories []struct {
	name string
	run  func(*testing.T, *world)
}

// runStories runs each story in its own world. The prefix distinguishes their objects from those of
// other stories of the same name.
func runStories(t *testing.T, kube *rest.Config, prefix string, all stories) {
	t.Helper()
	for _, story := range all {
		t.Run(story.name, func(t *testing.T) { story.run(t, newWorld(t, kube, slug(prefix+story.name))) })
	}
}

// slug turns a story's name into a part of object names.
func slug(name string) string {
	return strings.NewReplacer(" ", "-", ".", "-", "'", "", ",", "").Replace(strings.ToLower(name))
}

// world is a namespace with a scale set of two nodes, and a MIC.
type world struct {
	t         testing.TB
	kube      *rest.Config
	client    client.Client
	cloud     *computetest.Fake
	group     compute.Group
	namespace string
	nodes     []string
	config    controllers.Config
	log       logr.Logger // of MIC; discarded unless a story sets it

	stop func()
}

// newWorld creates a world whose object names contain name. Its MIC is not started yet.
func newWorld(t testing.TB, kube *rest.Config, name string) *world {
	t.Helper()
	c := testenv.Client(t, kube, scheme.AddToScheme, v1.AddToScheme)
	w := &world{
		t: t, kube: kube, client: c, cloud: computetest.NewFake(), namespace: "ns-" + name,
		group: compute.Group{Kind: compute.VMSS, SubscriptionID: subscription, ResourceGroup: "rg", Name: "vmss-" + name},
		nodes: []string{"node-" + name + "-0", "node-" + name + "-1"},
		log:   logr.Discard(),
		config: controllers.Config{
			Rules:           identity.Rules{ForceNamespaced: true},
			Attachment:      attachment.Settings{Grace: 50 * time.Millisecond, RetryInterval: 50 * time.Millisecond},
			Writes:          20,
			LedgerNamespace: "ns-" + name, LedgerName: ledgerName,
			DriftInterval: time.Hour, SweepInterval: time.Hour,
		},
		stop: func() {},
	}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	for i, node := range w.nodes {
		w.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{ProviderID: w.providerID(i)}})
	}
	w.cloud.SetGroup(w.group, compute.Identities{})
	t.Cleanup(w.end)
	return w
}

// logged collects the lines of MIC's log that have one of the texts. It must be called before
// start.
func (w *world) logged(texts ...string) (lines func(text string) []string) {
	var mu sync.Mutex
	var all []string
	w.log = funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			all = append(all, line)
		}
	}, funcr.Options{Verbosity: 1})
	return func(text string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.DeleteFunc(slices.Clone(all), func(line string) bool { return !strings.Contains(line, text) })
	}
}

func (w *world) providerID(instance int) string {
	return fmt.Sprintf("azure:///subscriptions/%s/resourceGroups/RG/providers/Microsoft.Compute/virtualMachineScaleSets/%s/virtualMachines/%d",
		subscription, strings.ToUpper(w.group.Name), instance)
}

// start starts a MIC.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	scheme, err := controllers.Scheme()
	if err != nil {
		w.t.Fatal(err)
	}
	cache, err := controllers.CacheOptions()
	if err != nil {
		w.t.Fatal(err)
	}
	log := w.log
	if os.Getenv("PODID_TEST_LOG") != "" {
		log = logging.New(os.Stderr, logging.FormatText, 1)
	}
	mgr, err := manager.New(w.kube, manager.Options{
		Scheme: scheme, Cache: cache, Logger: log, Metrics: server.Options{BindAddress: "0"},
		BaseContext: func() context.Context { return logr.NewContext(context.WithoutCancel(ctx), log) },
		Controller:  config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	policy, err := controllers.Add(ctx, mgr, w.cloud, observe.NewMetrics(prometheus.NewRegistry()), w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := mgr.Add(policy); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(logr.NewContext(ctx, log)) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("manager: %v", err)
		}
	})
	if !mgr.GetCache().WaitForCacheSync(ctx) {
		w.t.Fatal("caches not filled")
	}
}

// end stops MIC and deletes what the world created in the API server, so that the next MIC does not
// see it.
func (w *world) end() {
	w.stop()
	ctx := context.Background()
	var pods corev1.PodList
	w.must(w.client.List(ctx, &pods, client.InNamespace(w.namespace)))
	for i := range pods.Items {
		w.must(client.IgnoreNotFound(w.client.Delete(ctx, &pods.Items[i], client.GracePeriodSeconds(0))))
	}
	var assigned v1.AzureAssignedIdentityList
	w.must(w.client.List(ctx, &assigned))
	for i := range assigned.Items {
		assigned.Items[i].Finalizers = nil
		w.must(client.IgnoreNotFound(w.client.Update(ctx, &assigned.Items[i])))
		w.must(client.IgnoreNotFound(w.client.Delete(ctx, &assigned.Items[i])))
	}
	w.must(w.client.DeleteAllOf(ctx, &v1.AzureIdentityBinding{}, client.InNamespace(w.namespace)))
	w.must(w.client.DeleteAllOf(ctx, &v1.AzureIdentity{}, client.InNamespace(w.namespace)))
	for _, node := range w.nodes {
		w.must(client.IgnoreNotFound(w.client.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})))
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	testenv.Create(w.t, w.client, o)
}

// patch applies a JSON merge patch, and leaves o as it is.
func (w *world) patch(o client.Object, patch string) {
	w.t.Helper()
	changed := o.DeepCopyObject().(client.Object)
	w.must(w.client.Patch(w.t.Context(), changed, client.RawPatch(types.MergePatchType, []byte(patch))))
}

func (w *world) delete(o client.Object) {
	w.t.Helper()
	w.must(w.client.Delete(w.t.Context(), o, client.GracePeriodSeconds(0)))
}

// resourceID returns the ARM ID of a managed identity.
func resourceID(name string) string {
	return "/subscriptions/" + subscription + "/resourcegroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

// newIdentity returns an AzureIdentity for a managed identity, with the right client ID.
func (w *world) newIdentity(name, managed string) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       v1.AzureIdentitySpec{ResourceID: resourceID(managed), ClientID: computetest.ClientID(resourceID(managed))},
	}
}

// managed creates managed identities on Azure, and an AzureIdentity and a binding of each.
func (w *world) managed(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.cloud.AddIdentities(resourceID(name))
		w.identity(name)
	}
}

// attached is managed for an identity that the scale set already has, and no others.
func (w *world) attached(name string) {
	w.t.Helper()
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID(name)}})
	w.identity(name)
}

// identity creates an AzureIdentity and a binding of this name. The name is also the selector.
func (w *world) identity(name string) (*v1.AzureIdentity, *v1.AzureIdentityBinding) {
	w.t.Helper()
	id := w.newIdentity(name, name)
	w.create(id)
	return id, w.binding(name, name)
}

func (w *world) binding(name, identityName string) *v1.AzureIdentityBinding {
	w.t.Helper()
	b := &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identityName, Selector: name},
	}
	w.create(b)
	return b
}

// newPod returns a pod on a node with a binding label.
func (w *world) newPod(name, selector, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: map[string]string{v1.BindingLabel: selector}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func (w *world) pod(name, selector string) *corev1.Pod {
	w.t.Helper()
	pod := w.newPod(name, selector, w.nodes[0])
	w.create(pod)
	return pod
}

func (w *world) eventually(what string, condition func() string) {
	w.t.Helper()
	testenv.Eventually(w.t, what, condition)
}

// assigned returns the assigned identities of a pod.
func (w *world) assigned(pod string) []v1.AzureAssignedIdentity {
	w.t.Helper()
	var list v1.AzureAssignedIdentityList
	w.must(w.client.List(w.t.Context(), &list))
	return slices.DeleteFunc(list.Items, func(a v1.AzureAssignedIdentity) bool {
		return a.Spec.Pod != pod || a.Spec.PodNamespace != w.namespace
	})
}

// waitState waits until the pod has one assigned identity, in that state.
func (w *world) waitState(pod, state string) v1.AzureAssignedIdentity {
	w.t.Helper()
	var found v1.AzureAssignedIdentity
	w.eventually("state "+state+" of pod "+pod, func() string {
		list := w.assigned(pod)
		if len(list) != 1 {
			return fmt.Sprintf("%d assigned identities", len(list))
		}
		if found = list[0]; found.Status.Status != state {
			return fmt.Sprintf("is %+v", found.Status)
		}
		return ""
	})
	return found
}

func (w *world) waitNone(pod string) {
	w.t.Helper()
	w.eventually("no assigned identity of pod "+pod, func() string {
		if n := len(w.assigned(pod)); n > 0 {
			return fmt.Sprintf("%d left", n)
		}
		return ""
	})
}

// has returns the names of the identities that the group has on Azure.
func (w *world) has() []string {
	w.t.Helper()
	have, err := w.cloud.Get(w.t.Context(), w.group)
	w.must(err)
	names := []string{}
	for _, id := range have.UserAssigned {
		names = append(names, filepath.Base(id))
	}
	return names
}

func (w *world) waitHas(names ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("identities %v", names), func() string {
		if have := w.has(); !slices.Equal(have, append([]string{}, names...)) {
			return fmt.Sprintf("has %v", have)
		}
		return ""
	})
}

// patches returns the number of updates so far.
func (w *world) patches() int {
	n := 0
	for _, call := range w.cloud.Calls() {
		if call.Operation == compute.PatchVMSS || call.Operation == compute.PatchVM {
			n++
		}
	}
	return n
}

// wantPatches expects this number of updates so far.
func (w *world) wantPatches(want int, why string) {
	w.t.Helper()
	if n := w.patches(); n != want {
		w.t.Errorf("%d updates of Azure, want %d: %s", n, want, why)
	}
}

// waitEvent waits for an event, whose note must contain the parts.
func (w *world) waitEvent(kind, name, reason string, parts ...string) {
	w.t.Helper()
	note := ""
	w.eventually(fmt.Sprintf("event %q on %s %s", reason, kind, name), func() string {
		var list eventsv1.EventList
		w.must(w.client.List(w.t.Context(), &list, client.InNamespace(w.namespace)))
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason {
				note = e.Note
				return ""
			}
		}
		return fmt.Sprintf("%d other events", len(list.Items))
	})
	for _, part := range parts {
		if !strings.Contains(note, part) {
			w.t.Errorf("event %q on %s %s lacks %q: %s", reason, kind, name, part, note)
		}
	}
}

// ledgers returns the ledger ConfigMaps.
func (w *world) ledgers() []corev1.ConfigMap {
	w.t.Helper()
	var list corev1.ConfigMapList
	w.must(w.client.List(w.t.Context(), &list, client.InNamespace(w.namespace),
		client.MatchingLabels{ledger.ManagedByLabel: ledger.ManagedBy}))
	return list.Items
}

func (w *world) waitNoLedger() {
	w.t.Helper()
	w.eventually("ledger gone", func() string {
		if n := len(w.ledgers()); n > 0 {
			return fmt.Sprintf("%d left", n)
		}
		return ""
	})
}
