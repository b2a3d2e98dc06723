// Package cluster reads what the agent needs from the API server: the pods of this node, and the
// objects that decide who may use which identity.
//
// It retries for as long as it runs, and objects stay known while the API server is unreachable. It
// uses only client-go's informers, with a scheme of the few kinds it needs: a scheme of all kinds
// would cost every node some 10 MB.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/listwatch"
	"github.com/podid-io/podid/internal/policywatch"
)

// Config selects what to watch.
type Config struct {
	REST *rest.Config
	// Node is the node whose pods are watched.
	Node string
	// Assigned means that the node's assigned identities are watched, too.
	Assigned bool
}

// Sink receives the objects. Its methods are called one at a time for each kind. Objects are shared
// and must not be changed.
type Sink interface {
	SetPod(*corev1.Pod)
	RemovePod(types.NamespacedName)
	SetBinding(*v1.AzureIdentityBinding)
	RemoveBinding(types.NamespacedName)
	SetIdentity(*v1.AzureIdentity)
	RemoveIdentity(types.NamespacedName)
	SetException(*v1.AzurePodIdentityException)
	RemoveException(types.NamespacedName)
	SetAssigned(*v1.AzureAssignedIdentity)
	RemoveAssigned(types.NamespacedName)
	policywatch.Sink
}

// Cluster watches the objects.
type Cluster struct {
	log    logr.Logger
	kinds  []*kind
	policy *policywatch.Watch
	synced chan struct{}

	mu     sync.Mutex
	down   error     // why the API server is unreachable, nil if it is not
	logged time.Time // when down was
}

// kind is one watched kind.
type kind struct {
	name     string
	informer cache.SharedIndexInformer // nil for the kinds that policywatch reads
	synced   func() bool

	mu      sync.Mutex
	lastErr error
	logged  time.Time // when lastErr was
}

// New returns a Cluster. It sends no request. strip reduces a pod, in place, to what the sink
// reads.
func New(c Config, sink Sink, strip func(*corev1.Pod), log logr.Logger) (*Cluster, error) {
	w := &Cluster{log: log.WithName("cluster"), synced: make(chan struct{})}
	config := rest.CopyConfig(c.REST)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &transport{next, w} })
	core, err := restClient(config, corev1.SchemeGroupVersion, "/api", "application/vnd.kubernetes.protobuf", addCore)
	if err != nil {
		return nil, err
	}
	group, err := restClient(config, v1.GroupVersion, "/apis", "application/json", v1.AddToScheme)
	if err != nil {
		return nil, err
	}
	everything := func(*metav1.ListOptions) {}
	err = errors.Join(
		add(w, core, "pods", &corev1.Pod{}, ofNode(c.Node), strip, sink.SetPod, sink.RemovePod),
		add(w, group, "azureidentities", &v1.AzureIdentity{}, everything, stripIdentity, sink.SetIdentity, sink.RemoveIdentity),
		add(w, group, "azureidentitybindings", &v1.AzureIdentityBinding{}, everything, stripBinding, sink.SetBinding, sink.RemoveBinding),
		add(w, group, "azurepodidentityexceptions", &v1.AzurePodIdentityException{}, everything, stripException, sink.SetException, sink.RemoveException),
	)
	if c.Assigned {
		err = errors.Join(err, add(w, group, "azureassignedidentities", &v1.AzureAssignedIdentity{},
			assignedTo(c.Node), stripAssigned, sink.SetAssigned, sink.RemoveAssigned))
	}
	if err != nil {
		return nil, err
	}
	return w, w.watchPolicy(core, group, sink)
}

// watchPolicy makes the watch of the policy. Its errors are recorded like those of other kinds.
func (w *Cluster) watchPolicy(core, group cache.Getter, sink Sink) error {
	kinds := map[string]*kind{}
	for _, name := range []string{policywatch.Policies, policywatch.Namespaces} {
		kinds[name] = &kind{name: name, synced: func() bool { return !slices.Contains(w.policy.Missing(), name) }}
	}
	w.kinds = append(w.kinds, kinds[policywatch.Policies], kinds[policywatch.Namespaces])
	var err error
	w.policy, err = policywatch.New(policywatch.Config{
		Core: core, Group: group, Sink: sink, Note: func(resource string, err error) { w.setAnswer(kinds[resource], err) },
	})
	return err
}

// restClient returns a client for one API group, with a scheme of its own.
func restClient(base *rest.Config, gv schema.GroupVersion, path, contentType string, register func(*runtime.Scheme) error) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := register(scheme); err != nil {
		return nil, fmt.Errorf("register the kinds of %s: %w", gv, err)
	}
	c := rest.CopyConfig(base)
	c.GroupVersion, c.APIPath = &gv, path
	c.ContentType, c.AcceptContentTypes = contentType, contentType+",application/json"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	made, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s at %s: %w", gv, base.Host, err)
	}
	return made, nil
}

func addCore(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Namespace{}, &corev1.NamespaceList{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return nil
}

func ofNode(node string) func(*metav1.ListOptions) {
	selector := fields.OneTermEqualSelector("spec.nodeName", node).String()
	return func(o *metav1.ListOptions) { o.FieldSelector = selector }
}

// assignedTo selects by the node's label. A node's name that is no valid label value has more than
// 63 characters, which Azure does not allow for a VM. For those, the sink filters.
func assignedTo(node string) func(*metav1.ListOptions) {
	if len(validation.IsValidLabelValue(node)) > 0 {
		return func(*metav1.ListOptions) {}
	}
	selector := labels.Set{v1.NodeNameLabel: node}.String()
	return func(o *metav1.ListOptions) { o.LabelSelector = selector }
}

// add adds the informer of one kind.
func add[T runtime.Object](w *Cluster, c cache.Getter, name string, example T, narrow func(*metav1.ListOptions),
	strip func(T), set func(T), remove func(types.NamespacedName),
) error {
	stripped := func(object any) (any, error) {
		if o, ok := object.(T); ok {
			strip(o)
		}
		return object, nil
	}
	list := listwatch.Stream(cache.NewFilteredListWatchFromClient(c, name, metav1.NamespaceAll, narrow), listwatch.Kind{
		Client: c, Resource: name, Narrow: narrow, New: example.DeepCopyObject, Strip: stripped,
	})
	k := &kind{name: name}
	// listwatch reconnects within two seconds, because revoked objects count until then.
	k.informer = cache.NewSharedIndexInformer(listwatch.New(list, func(err error) { w.setAnswer(k, err) }), example, 0, cache.Indexers{})
	apply := func(object any) {
		if o, ok := object.(T); ok {
			set(o)
		}
	}
	err := errors.Join(
		k.informer.SetTransform(stripped),
		k.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { w.setError(k, err) }),
	)
	if err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	handler, err := k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    apply,
		UpdateFunc: func(_, object any) { apply(object) },
		DeleteFunc: func(object any) {
			key, err := cache.DeletionHandlingObjectToName(object)
			if err == nil {
				remove(types.NamespacedName{Namespace: key.Namespace, Name: key.Name})
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	k.synced = handler.HasSynced
	w.kinds = append(w.kinds, k)
	return nil
}

// transport records whether the API server is reachable. The informers retry without reporting
// that.
type transport struct {
	next    http.RoundTripper
	cluster *Cluster
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if r.Context().Err() == nil {
		t.cluster.setDown(err)
	}
	return resp, err
}

func (w *Cluster) setDown(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	back := w.down != nil && err == nil
	w.down = err
	switch {
	case back && !w.logged.IsZero():
		w.logged = time.Time{}
		w.log.Info("the API server is reachable again")
	case err != nil && time.Since(w.logged) >= logInterval:
		w.logged = time.Now()
		w.log.Info("the API server is unreachable, retrying; known objects stay in use", "reason", err.Error())
	}
}

// logInterval is how often a persistent error is logged.
const logInterval = time.Minute

// setAnswer records the result of a request. If there was no answer, transport has recorded it.
func (w *Cluster) setAnswer(k *kind, err error) {
	var status apierrors.APIStatus
	if err != nil && errors.As(err, &status) {
		w.setError(k, err)
	}
}

// setError records an error of listing or watching a kind.
func (w *Cluster) setError(k *kind, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastErr = err
	if time.Since(k.logged) < logInterval {
		return
	}
	k.logged = time.Now()
	w.log.Info("cannot read from the API server, retrying; known objects stay in use",
		"resource", k.name, "synced", k.synced(), "reason", err.Error())
}

// Run watches until ctx ends. It does not wait for informers, which may be in a pause of up to half
// a minute before their next attempt.
func (w *Cluster) Run(ctx context.Context) {
	var synced []cache.InformerSynced
	for _, k := range w.kinds {
		if k.informer != nil {
			synced = append(synced, k.synced)
			go k.informer.RunWithContext(ctx)
		}
	}
	go w.policy.Run(ctx)
	if cache.WaitForCacheSync(ctx.Done(), synced...) && w.policy.Wait(ctx) {
		w.log.Info("read the cluster")
		close(w.synced)
		// The lists are garbage now, as much memory as what is kept.
		debug.FreeOSMemory()
	}
	<-ctx.Done()
}

// Synced is closed once the sink has received all objects.
func (w *Cluster) Synced() <-chan struct{} { return w.synced }

// Ready returns nil once Synced is closed. Before, it returns what is missing and why.
func (w *Cluster) Ready() error {
	select {
	case <-w.synced:
		return nil
	default:
	}
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down != nil {
		return fmt.Errorf("reach the API server: %w", down)
	}
	var errs []error
	for _, k := range w.kinds {
		if k.synced() {
			continue
		}
		k.mu.Lock()
		last := k.lastErr
		k.mu.Unlock()
		if last == nil {
			last = errors.New("not answered yet")
		}
		errs = append(errs, fmt.Errorf("read %s from the API server: %w", k.name, last))
	}
	return errors.Join(errs...)
}
