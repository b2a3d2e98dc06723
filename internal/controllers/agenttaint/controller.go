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

// Events emits Events. It is implemented by events.Events.
type Events interface {
	// NodeTainted reports that a node was tainted, and why.
	NodeTainted(node *corev1.Node, after time.Duration)
}

// Controller taints nodes without a working agent.
type Controller struct {
	live     client.Reader
	writer   client.Writer
	events   Events
	settings Settings

	mu     sync.Mutex
	record *record
}

// NewController returns a Controller. live reads nodes from the API server, because the cache does
// not hold taints.
func NewController(live client.Reader, writer client.Writer, events Events, settings Settings) *Controller {
	return &Controller{live: live, writer: writer, events: events, settings: settings, record: newRecord(settings.After)}
}

// Reconcile handles one node.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	c.mu.Lock()
	todo, left := c.record.judge(req.Name, time.Now())
	c.mu.Unlock()
	if todo == leave || todo == wait {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	var node corev1.Node
	err := c.live.Get(ctx, client.ObjectKey{Name: req.Name}, &node)
	switch {
	case apierrors.IsNotFound(err):
		// Events of its pods arrived after the node was deleted. Forget it again.
		c.mu.Lock()
		c.record.forget(req.Name)
		c.mu.Unlock()
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("read node %s: %w", req.Name, err)
	case todo == taint:
		return reconcile.Result{}, c.taint(ctx, &node)
	default:
		log.FromContext(ctx).Info("the agents of many nodes are ill: no taint, since it is not the nodes; look at the agents' DaemonSet", "node", req.Name)
	}
	return reconcile.Result{RequeueAfter: left}, nil
}

// Register adds the controller to a manager. The controller has its own cache, because the
// manager's cache holds only pods with a binding label.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	options := crcache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ReaderFailOnMissingInformer: true,
		ByObject:                    map[client.Object]crcache.ByObject{&corev1.Pod{}: {Label: c.settings.Agents, Transform: slim}},
	}
	if c.settings.Namespace != "" {
		options.DefaultNamespaces = map[string]crcache.Config{c.settings.Namespace: {}}
	}
	api, err := apiutil.RESTClientForGVK(corev1.SchemeGroupVersion.WithKind("Pod"), false, false,
		mgr.GetConfig(), serializer.NewCodecFactory(mgr.GetScheme()), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("watch the node agents: %w", err)
	}
	options.NewInformer = func(lw cache.ListerWatcher, pod runtime.Object, resync time.Duration, indexers cache.Indexers) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(listwatch.Stream(lw, listwatch.Kind{
			Client: api, Resource: "pods", Namespace: c.settings.Namespace, New: pod.DeepCopyObject, Strip: slim,
			Narrow: func(o *metav1.ListOptions) { o.LabelSelector = c.settings.Agents.String() },
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
		WatchesRawSource(source.Kind(agents, client.Object(&corev1.Pod{}), c.agentHandler())).
		Watches(&corev1.Node{}, handler.Funcs{DeleteFunc: c.nodeDeleted}).
		WithOptions(controller.Options{NewQueue: wakeup.NewWorkQueue[reconcile.Request]}).
		Complete(c)
}

// taint adds the taint to a node that lacks it. A concurrent write by another client causes a
// conflict, and the node is retried.
func (c *Controller) taint(ctx context.Context, node *corev1.Node) error {
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1.AgentNotReadyTaint }) {
		return nil
	}
	before := node.DeepCopy()
	now := metav1.NewTime(time.Now())
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: v1.AgentNotReadyTaint, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &now})
	if err := c.writer.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("put taint %s on node %s: %w", v1.AgentNotReadyTaint, node.Name, err)
	}
	log.FromContext(ctx).Info("start-up taint put back: the node's agent is gone or not ready", "node", node.Name, "after", c.settings.After.String())
	c.events.NodeTainted(node, c.settings.After)
	return nil
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
func (c *Controller) agentHandler() handler.EventHandler {
	note := func(o client.Object, gone bool, q queue) {
		pod, ok := o.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return
		}
		name := pod.Namespace + "/" + pod.Name
		c.mu.Lock()
		if gone {
			c.record.remove(pod.Spec.NodeName, name, time.Now())
		} else {
			c.record.set(pod.Spec.NodeName, name, ready(pod), time.Now())
		}
		c.mu.Unlock()
		q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: pod.Spec.NodeName}})
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { note(e.Object, false, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { note(e.ObjectNew, false, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { note(e.Object, true, q) },
	}
}

func (c *Controller) nodeDeleted(_ context.Context, e event.DeleteEvent, _ queue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.forget(e.Object.GetName())
}
