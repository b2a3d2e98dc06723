// Which events queue an identity in the broker controller.

package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/listwatch"
)

// Backoff after an API server error. The library's default goes up to 16 minutes, far longer than a
// typical outage.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 15 * time.Second
)

// Register adds the controller to a manager, and its watch of ServiceAccounts.
func (r *Reconciler) Register(mgr manager.Manager) error {
	meta, err := metadata.NewForConfigAndClient(metadata.ConfigFor(mgr.GetConfig()), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client for ServiceAccounts: %w", err)
	}
	watch := &Watch{lister: listerWatcher(meta, r.Namespace), namespace: r.Namespace, notify: r.look, all: r.lookAtAll}
	watch.informer = cache.NewSharedIndexInformer(listwatch.New(watch.lister, watch.note), &metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
	r.Accounts = watch
	if err := mgr.Add(watch); err != nil {
		return fmt.Errorf("watch ServiceAccounts: %w", err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("broker").
		For(&v1.AzureIdentity{}, builder.WithPredicates(federatedChanged())).
		WatchesRawSource(source.TypedFunc[reconcile.Request](r.kicks.Source)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 4,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryFirst, retryMost),
			NewQueue:                wakeup.NewWorkQueue[reconcile.Request],
		}).
		Complete(r)
}

// federatedChanged passes identities that are, or were, federated. In a cluster without any,
// nothing is ever queued.
func federatedChanged() predicate.Predicate {
	federated := func(o client.Object) bool {
		id, ok := o.(*v1.AzureIdentity)
		return ok && id.Spec.Type == v1.Federated
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return federated(e.Object) },
		DeleteFunc: func(e event.DeleteEvent) bool { return federated(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return (federated(e.ObjectOld) || federated(e.ObjectNew)) && e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// look queues the identity whose broker has this name.
func (r *Reconciler) look(broker string) {
	if id, ok := identityOf(broker); ok {
		r.kicks.Add(reconcile.Request{NamespacedName: id})
	}
}

// lookAtAll queues all federated identities.
func (r *Reconciler) lookAtAll() {
	var list v1.AzureIdentityList
	if err := r.Client.List(context.Background(), &list, client.UnsafeDisableDeepCopy); err != nil {
		return // the cache never synced: the program is stopping
	}
	for i := range list.Items {
		if id := &list.Items[i]; id.Spec.Type == v1.Federated {
			r.kicks.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(id)})
		}
	}
}

// Watch follows the names of the ServiceAccounts with podid's label in the brokers' namespace, only
// on the leader. MIC's other functions do not depend on it, in case the permission is missing.
type Watch struct {
	namespace string
	lister    *cache.ListWatch
	informer  cache.SharedIndexInformer
	notify    func(broker string)
	all       func()
	log       logr.Logger

	mu      sync.Mutex
	trouble error // the error of the last request
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*Watch) NeedLeaderElection() bool { return true }

// Start watches until the context ends.
func (w *Watch) Start(ctx context.Context) error {
	w.log = logr.FromContextOrDiscard(ctx).WithName("broker")
	handler, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    w.heard,
		DeleteFunc: w.heard,
	})
	if err != nil {
		return fmt.Errorf("watch ServiceAccounts: %w", err)
	}
	go w.informer.RunWithContext(ctx)
	if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		// The existing brokers are known now.
		w.all()
		for _, key := range w.informer.GetStore().ListKeys() {
			w.heardKey(key)
		}
	}
	<-ctx.Done()
	return nil
}

func (w *Watch) heard(o any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
		w.heardKey(key)
	}
}

func (w *Watch) heardKey(key string) {
	if _, name, err := cache.SplitMetaNamespaceKey(key); err == nil {
		w.notify(name)
	}
}

// note records the outcome of a request. A persistent error is logged once.
func (w *Watch) note(err error) {
	w.mu.Lock()
	same := fmt.Sprint(err) == fmt.Sprint(w.trouble)
	w.trouble = err
	w.mu.Unlock()
	if same || err == nil {
		return
	}
	w.log.Info("cannot watch the brokers, trying again; new federated identities get none meanwhile", "namespace", w.namespace, "reason", err.Error())
	if !w.Synced() {
		w.all() // identities report the problem
	}
}

// Trouble implements Accounts.
func (w *Watch) Trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trouble
}

// Synced implements Accounts.
func (w *Watch) Synced() bool { return w.informer.HasSynced() }

// UID implements Accounts.
func (w *Watch) UID(name string) types.UID {
	o, ok, err := w.informer.GetStore().GetByKey(w.namespace + "/" + name)
	if account, is := o.(*metav1.PartialObjectMetadata); ok && is && err == nil {
		return account.UID
	}
	return ""
}

// listerWatcher requests the metadata of ServiceAccounts with podid's label.
func listerWatcher(meta metadata.Interface, namespace string) *cache.ListWatch {
	accounts := meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}).Namespace(namespace)
	labelled := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector = federation.ManagedByLabel + "=" + federation.ManagedBy
		return o
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return accounts.List(ctx, labelled(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return accounts.Watch(ctx, labelled(o))
		},
	}
}
