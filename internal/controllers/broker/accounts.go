// The watch of the brokers that exist.

package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/listwatch"
)

// accounts follows the names of the ServiceAccounts with podid's label in the brokers' namespace,
// only on the leader, and queues the identities that they concern. MIC's other functions do not
// depend on it, in case the permission is missing.
type accounts struct {
	namespace string
	cache     client.Reader
	queue     *wakeup.Objects
	informer  cache.SharedIndexInformer
	log       logr.Logger

	mu      sync.Mutex
	trouble error // the error of the last request
}

func newAccounts(meta metadata.Interface, namespace string, identities client.Reader, queue *wakeup.Objects) *accounts {
	a := &accounts{namespace: namespace, cache: identities, queue: queue}
	a.informer = cache.NewSharedIndexInformer(
		listwatch.New(listerWatcher(meta, namespace), a.note), &metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
	return a
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*accounts) NeedLeaderElection() bool { return true }

// Start watches until the context ends.
func (a *accounts) Start(ctx context.Context) error {
	a.log = logr.FromContextOrDiscard(ctx).WithName("broker")
	handler, err := a.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    a.queueObject,
		DeleteFunc: a.queueObject,
	})
	if err != nil {
		return fmt.Errorf("watch ServiceAccounts: %w", err)
	}
	go a.informer.RunWithContext(ctx)
	if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		// The existing brokers are known now.
		a.queueAll(ctx)
		for _, key := range a.informer.GetStore().ListKeys() {
			a.queueKey(key)
		}
	}
	<-ctx.Done()
	return nil
}

func (a *accounts) queueObject(o any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
		a.queueKey(key)
	}
}

// queueKey queues the identity whose broker has this key.
func (a *accounts) queueKey(key string) {
	if _, name, err := cache.SplitMetaNamespaceKey(key); err == nil {
		if id, ok := identityOf(name); ok {
			a.queue.Add(id)
		}
	}
}

// identityOf returns the identity whose broker has this name. A namespace contains no dot.
func identityOf(broker string) (types.NamespacedName, bool) {
	namespace, name, ok := strings.Cut(broker, ".")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok && namespace != "" && name != ""
}

// queueAll queues all federated identities.
func (a *accounts) queueAll(ctx context.Context) {
	var list v1.AzureIdentityList
	if err := a.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return // the cache never synced: the program is stopping
	}
	for i := range list.Items {
		if id := &list.Items[i]; id.Spec.Type == v1.Federated {
			a.queue.Add(client.ObjectKeyFromObject(id))
		}
	}
}

// note records the outcome of a request. A persistent error is logged once.
func (a *accounts) note(err error) {
	a.mu.Lock()
	same := fmt.Sprint(err) == fmt.Sprint(a.trouble)
	a.trouble = err
	a.mu.Unlock()
	if same || err == nil {
		return
	}
	a.log.Info("cannot watch the brokers, trying again; new federated identities get none meanwhile", "namespace", a.namespace, "reason", err.Error())
	if !a.synced() {
		a.queueAll(context.Background()) // identities report the problem
	}
}

// lastError returns why the ServiceAccounts are not known, or nil if the last request succeeded.
func (a *accounts) lastError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trouble
}

// synced reports whether all of them are known.
func (a *accounts) synced() bool { return a.informer.HasSynced() }

// uid returns the UID of the ServiceAccount of this name, or "" if it does not exist.
func (a *accounts) uid(name string) types.UID {
	o, ok, err := a.informer.GetStore().GetByKey(a.namespace + "/" + name)
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
