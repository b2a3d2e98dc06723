// Package agenttaint restores the startup taint on a node whose agent has been missing or not ready
// for a while. Pods that need an identity are then not scheduled there.
//
// The controller is opt-in. It never removes the taint: the agent does so when it is ready again.
package agenttaint

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/listwatch"
)

// Settings configures the controller.
type Settings struct {
	// After is how long an agent may be missing or not ready. 0 disables the controller.
	After time.Duration
	// Agents selects the agents' pods in Namespace. An empty Namespace means all namespaces.
	Agents    labels.Selector
	Namespace string
}

// Announcer emits Events.
type Announcer interface {
	// NodeTainted reports that a node was tainted, and why.
	NodeTainted(node *corev1.Node, after time.Duration)
}

// Reconciler taints nodes without a working agent.
type Reconciler struct {
	// Live reads nodes from the API server, because the cache does not hold taints.
	Live   client.Reader
	Writer client.Client
	Events Announcer
	Now    func() time.Time

	settings Settings

	mu     sync.Mutex
	record *record
}

// New returns a Reconciler.
func New(live client.Reader, writer client.Client, events Announcer, now func() time.Time, s Settings) *Reconciler {
	return &Reconciler{Live: live, Writer: writer, Events: events, Now: now, settings: s, record: newRecord(s.After)}
}

// Register adds the controller to a manager. The controller has its own cache, because the
// manager's cache holds only pods with a binding label.
func (r *Reconciler) Register(mgr manager.Manager) error {
	options := crcache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ReaderFailOnMissingInformer: true,
		ByObject:                    map[client.Object]crcache.ByObject{&corev1.Pod{}: {Label: r.settings.Agents, Transform: slim}},
	}
	if r.settings.Namespace != "" {
		options.DefaultNamespaces = map[string]crcache.Config{r.settings.Namespace: {}}
	}
	api, err := apiutil.RESTClientForGVK(corev1.SchemeGroupVersion.WithKind("Pod"), false, false,
		mgr.GetConfig(), serializer.NewCodecFactory(mgr.GetScheme()), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("watch the node agents: %w", err)
	}
	options.NewInformer = func(lw cache.ListerWatcher, pod runtime.Object, resync time.Duration, indexers cache.Indexers) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(listwatch.Stream(lw, listwatch.Kind{
			Client: api, Resource: "pods", Namespace: r.settings.Namespace, New: pod.DeepCopyObject, Strip: slim,
			Narrow: func(o *metav1.ListOptions) { o.LabelSelector = r.settings.Agents.String() },
		}), pod, resync, indexers)
	}
	agents, err := crcache.New(mgr.GetConfig(), options)
	if err != nil {
		return fmt.Errorf("watch the node agents: %w", err)
	}
	if err := mgr.Add(agents); err != nil {
		return fmt.Errorf("watch the node agents: %w", err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("agenttaint").
		WatchesRawSource(source.Kind(agents, client.Object(&corev1.Pod{}), r.agentHandler())).
		Watches(&corev1.Node{}, handler.Funcs{DeleteFunc: r.nodeDeleted}).
		WithOptions(controller.Options{NewQueue: wakeup.NewWorkQueue[reconcile.Request]}).
		Complete(r)
}

// slim reduces an agent's pod to its node and its Ready condition.
func slim(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	out := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}}
	out.Spec.NodeName = pod.Spec.NodeName
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{c}
		}
	}
	return out, nil
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// agentHandler updates the record and queues the agent's node.
func (r *Reconciler) agentHandler() handler.EventHandler {
	note := func(o client.Object, gone bool, q queue) {
		pod, ok := o.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return
		}
		name := pod.Namespace + "/" + pod.Name
		r.mu.Lock()
		if gone {
			r.record.remove(pod.Spec.NodeName, name, r.Now())
		} else {
			r.record.set(pod.Spec.NodeName, name, ready(pod), r.Now())
		}
		r.mu.Unlock()
		q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: pod.Spec.NodeName}})
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { note(e.Object, false, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { note(e.ObjectNew, false, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { note(e.Object, true, q) },
	}
}

func (r *Reconciler) nodeDeleted(_ context.Context, e event.DeleteEvent, _ queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.forget(e.Object.GetName())
}

// Reconcile handles one node.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	r.mu.Lock()
	todo, left := r.record.judge(req.Name, r.Now())
	r.mu.Unlock()
	if todo == leave || todo == wait {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	var node corev1.Node
	err := r.Live.Get(ctx, client.ObjectKey{Name: req.Name}, &node)
	switch {
	case apierrors.IsNotFound(err):
		// Events of its pods arrived after the node was deleted. Forget it again.
		r.mu.Lock()
		r.record.forget(req.Name)
		r.mu.Unlock()
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("read node %s: %w", req.Name, err)
	case todo == taint:
		return reconcile.Result{}, r.taint(ctx, &node)
	default:
		log.FromContext(ctx).Info("the agents of many nodes are ill: no taint, since it is not the nodes; look at the agents' DaemonSet", "node", req.Name)
	}
	return reconcile.Result{RequeueAfter: left}, nil
}

// taint adds the taint to a node that lacks it. A concurrent write by another client causes a
// conflict, and the node is retried.
func (r *Reconciler) taint(ctx context.Context, node *corev1.Node) error {
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1.AgentNotReadyTaint }) {
		return nil
	}
	before := node.DeepCopy()
	now := metav1.NewTime(r.Now())
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: v1.AgentNotReadyTaint, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &now})
	if err := r.Writer.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("put taint %s on node %s: %w", v1.AgentNotReadyTaint, node.Name, err)
	}
	log.FromContext(ctx).Info("start-up taint put back: the node's agent is gone or not ready", "node", node.Name, "after", r.settings.After.String())
	r.Events.NodeTainted(node, r.settings.After)
	return nil
}
