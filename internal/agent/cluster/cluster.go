// Package cluster tells the agent what the API server says: the pods of this
// node, and the objects that say who may use which identity.
//
// It keeps trying for as long as it runs, and what it once told stays told when
// the API server goes away. It is built on client-go's informers alone, with a
// scheme of the few kinds it needs: an agent runs on every node, and a scheme
// of all kinds would cost each of them some 10 MB.
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

// Config says what to watch.
type Config struct {
	// REST is how to reach the API server.
	REST *rest.Config
	// Node is the node whose pods count.
	Node string
	// Assigned tells whether to watch the assigned identities of the node, too.
	Assigned bool
}

// Sink takes what the API server tells. Its methods are called one at a time
// for each kind; objects are shared and must not be changed.
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

// Cluster watches.
type Cluster struct {
	log    logr.Logger
	kinds  []*kind
	policy *policywatch.Watch
	synced chan struct{}

	mu   sync.Mutex
	down error // why the API server cannot be reached, nil when it can
	said time.Time
}

// kind is one watched kind.
type kind struct {
	name     string
	informer cache.SharedIndexInformer // nil for those that policywatch reads
	synced   func() bool

	mu   sync.Mutex
	last error // of the last attempt, nil before the first
	said time.Time
}

// New prepares the watches. It sends nothing yet. strip reduces a pod, in place,
// to what the sink reads.
func New(c Config, sink Sink, strip func(*corev1.Pod), log logr.Logger) (*Cluster, error) {
	w := &Cluster{log: log.WithName("cluster"), synced: make(chan struct{})}
	config := rest.CopyConfig(c.REST)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &line{next, w} })
	core, err := restClient(config, corev1.SchemeGroupVersion, "/api", "application/vnd.kubernetes.protobuf", addCore)
	if err != nil {
		return nil, err
	}
	ours, err := restClient(config, v1.GroupVersion, "/apis", "application/json", v1.AddToScheme)
	if err != nil {
		return nil, err
	}
	everything := func(*metav1.ListOptions) {}
	err = errors.Join(
		add(w, core, "pods", &corev1.Pod{}, ofNode(c.Node), strip, sink.SetPod, sink.RemovePod),
		add(w, ours, "azureidentities", &v1.AzureIdentity{}, everything, stripIdentity, sink.SetIdentity, sink.RemoveIdentity),
		add(w, ours, "azureidentitybindings", &v1.AzureIdentityBinding{}, everything, stripBinding, sink.SetBinding, sink.RemoveBinding),
		add(w, ours, "azurepodidentityexceptions", &v1.AzurePodIdentityException{}, everything, stripException, sink.SetException, sink.RemoveException),
	)
	if c.Assigned {
		err = errors.Join(err, add(w, ours, "azureassignedidentities", &v1.AzureAssignedIdentity{},
			assignedTo(c.Node), stripAssigned, sink.SetAssigned, sink.RemoveAssigned))
	}
	if err != nil {
		return nil, err
	}
	return w, w.watchPolicy(core, ours, sink)
}

// watchPolicy makes the watch of the policy. Its errors are noted as those of
// other kinds are.
func (w *Cluster) watchPolicy(core, ours cache.Getter, sink Sink) error {
	kinds := map[string]*kind{}
	for _, name := range []string{policywatch.Policies, policywatch.Namespaces} {
		kinds[name] = &kind{name: name, synced: func() bool { return !slices.Contains(w.policy.Missing(), name) }}
	}
	w.kinds = append(w.kinds, kinds[policywatch.Policies], kinds[policywatch.Namespaces])
	var err error
	w.policy, err = policywatch.New(policywatch.Config{
		Core: core, Group: ours, Sink: sink, Note: func(resource string, err error) { w.noteAnswer(kinds[resource], err) },
	})
	return err
}

// restClient is a client for one group and a scheme of its own.
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

// assignedTo narrows to the node's label. A node's name that is no label value
// (longer than 63 characters, which no VM of Azure can be called) is left to the
// sink to compare.
func assignedTo(node string) func(*metav1.ListOptions) {
	if len(validation.IsValidLabelValue(node)) > 0 {
		return func(*metav1.ListOptions) {}
	}
	selector := labels.Set{v1.NodeNameLabel: node}.String()
	return func(o *metav1.ListOptions) { o.LabelSelector = selector }
}

// add makes the informer of one kind.
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
	// Back within two seconds of the API server: until then, what was revoked
	// meanwhile still counts.
	k.informer = cache.NewSharedIndexInformer(listwatch.New(list, func(err error) { w.noteAnswer(k, err) }), example, 0, cache.Indexers{})
	take := func(object any) {
		if o, ok := object.(T); ok {
			set(o)
		}
	}
	err := errors.Join(
		k.informer.SetTransform(stripped),
		k.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { w.note(k, err) }),
	)
	if err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	handler, err := k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    take,
		UpdateFunc: func(_, object any) { take(object) },
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

// line is the connection to the API server. The informers keep trying on a dead
// one without a word, so it is noted here.
type line struct {
	next    http.RoundTripper
	cluster *Cluster
}

// RoundTrip is http.RoundTripper.
func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if r.Context().Err() == nil {
		l.cluster.noteLine(err)
	}
	return resp, err
}

func (w *Cluster) noteLine(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	back := w.down != nil && err == nil
	w.down = err
	switch {
	case back && !w.said.IsZero():
		w.said = time.Time{}
		w.log.Info("the API server answers again")
	case err != nil && time.Since(w.said) >= logInterval:
		w.said = time.Now()
		w.log.Info("the API server does not answer, trying again; what is known stays in use", "reason", err.Error())
	}
}

// logInterval is how often a problem that lasts is logged.
const logInterval = time.Minute

// noteAnswer takes how a request went. That nobody answered is the line's to say.
func (w *Cluster) noteAnswer(k *kind, err error) {
	var status apierrors.APIStatus
	if err != nil && errors.As(err, &status) {
		w.note(k, err)
	}
}

// note takes that listing or watching a kind did not work.
func (w *Cluster) note(k *kind, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = err
	if time.Since(k.said) < logInterval {
		return
	}
	k.said = time.Now()
	w.log.Info("cannot read from the API server, trying again; what is known stays in use",
		"resource", k.name, "synced", k.synced(), "reason", err.Error())
}

// Run watches until ctx ends. The informers end soon after: one that pauses
// before its next try, up to half a minute, is not waited for.
func (w *Cluster) Run(ctx context.Context) {
	var told []cache.InformerSynced
	for _, k := range w.kinds {
		if k.informer != nil {
			told = append(told, k.synced)
			go k.informer.RunWithContext(ctx)
		}
	}
	go w.policy.Run(ctx)
	if cache.WaitForCacheSync(ctx.Done(), told...) && w.policy.Wait(ctx) {
		w.log.Info("the cluster is known")
		close(w.synced)
		// What it was learned from is garbage now, as much as is kept. A node
		// can use it better.
		debug.FreeOSMemory()
	}
	<-ctx.Done()
}

// Synced closes once everything was told for the first time.
func (w *Cluster) Synced() <-chan struct{} { return w.synced }

// Ready is nil once everything was told, and stays so. Before, it says what is
// missing and why.
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
		last := k.last
		k.mu.Unlock()
		if last == nil {
			last = errors.New("not answered yet")
		}
		errs = append(errs, fmt.Errorf("read %s from the API server: %w", k.name, last))
	}
	return errors.Join(errs...)
}
