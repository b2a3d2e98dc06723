// Package broker keeps the ServiceAccounts that represent federated identities (type 3) at Entra
// ID. Each AzureIdentity has one. All of them are in one namespace, and each is deleted with its
// identity.
//
// They carry no permissions and no pod runs as them. A ServiceAccount that was not created by MIC
// or `podid identity federate` is never touched.
package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// lookAgain is the retry interval for problems that a person has to fix and that no watch reports:
// a missing namespace or permission.
const lookAgain = 10 * time.Second

const (
	workers    = 4
	retryFirst = 50 * time.Millisecond
)

// Events emits Events. It is implemented by events.Events.
type Events interface {
	// BrokerMissing reports why a federated identity has no broker and what to do, once per change.
	// An empty why clears it.
	BrokerMissing(id *v1.AzureIdentity, why string)
	// ForgetBroker drops what was reported about a deleted identity.
	ForgetBroker(namespace, name string)
}

// Controller creates and deletes brokers.
type Controller struct {
	client    client.Client
	live      client.Reader
	events    Events
	namespace string
	accounts  *accounts
	queue     *wakeup.Objects

	outage outage
}

// NewController returns a Controller. live and meta ask the API server. namespace is that of all
// brokers.
func NewController(client client.Client, live client.Reader, meta metadata.Interface, events Events, namespace string) *Controller {
	queue := &wakeup.Objects{}
	return &Controller{
		client: client, live: live, events: events, namespace: namespace, queue: queue,
		accounts: newAccounts(meta, namespace, client, queue),
	}
}

// Reconcile handles one identity, which need not exist.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	id, err := c.read(ctx, c.client, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !c.accounts.synced() { // all are queued again once it is synced
		return reconcile.Result{}, c.blind(ctx, id)
	}
	name := req.Namespace + "." + req.Name
	have := c.accounts.uid(name)
	switch {
	case Wanted(id) && have == "":
		return c.create(ctx, id, name)
	case Wanted(id):
		return reconcile.Result{}, c.well(ctx, id)
	case id == nil:
		c.events.ForgetBroker(req.Namespace, req.Name)
	default:
		c.events.BrokerMissing(id, "")
	}
	if have == "" {
		return reconcile.Result{}, nil
	}
	return c.remove(ctx, req.NamespacedName, name, have)
}

// Register adds the controller to a manager, and its watch of ServiceAccounts.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	if err := mgr.Add(c.accounts); err != nil {
		return fmt.Errorf("watch ServiceAccounts: %w", err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("broker").
		For(&v1.AzureIdentity{}, builder.WithPredicates(federatedChanged())).
		WatchesRawSource(source.Func(c.queue.Source)).
		WithOptions(wakeup.Options[reconcile.Request](workers, retryFirst)).
		Complete(c)
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

// Wanted reports whether an identity needs a broker of its own. A nil identity does not.
func Wanted(id *v1.AzureIdentity) bool {
	if id == nil || id.Spec.Type != v1.Federated || identity.Shared(id) {
		return false
	}
	_, err := identity.Broker(id)
	return err == nil
}

// read returns an identity, or nil if it does not exist.
func (c *Controller) read(ctx context.Context, from client.Reader, name types.NamespacedName) (*v1.AzureIdentity, error) {
	var id v1.AzureIdentity
	err := from.Get(ctx, name, &id)
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // a deleted identity is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("read identity %s: %w", name, err)
	}
	return &id, nil
}

// create creates the broker of an identity.
func (c *Controller) create(ctx context.Context, id *v1.AzureIdentity, name string) (reconcile.Result, error) {
	err := c.outage.last(time.Now())
	if err == nil {
		err = c.client.Create(ctx, federation.Account(id, c.namespace, name))
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			c.outage.note(err, time.Now().Add(lookAgain-lookAgain/10))
		}
	}
	switch {
	case err == nil:
		logr.FromContextOrDiscard(ctx).Info("broker made", "serviceAccount", c.namespace+"/"+name)
		return reconcile.Result{}, c.well(ctx, id)
	case apierrors.IsAlreadyExists(err):
		// Either the watch has not reported it yet, or another client created it without podid's
		// label. Both work: the agent requests tokens by name.
		return reconcile.Result{}, c.well(ctx, id)
	case apierrors.IsNotFound(err):
		return c.ill(ctx, id, reason.BrokerNamespaceMissing.Refuse(
			"the namespace of the brokers, %s, does not exist: create it, as the chart does, or name another with mic's and nmi's --broker-namespace", c.namespace))
	case apierrors.IsForbidden(err):
		return c.ill(ctx, id, reason.BrokerRefused.Refuse(
			"mic may not create ServiceAccounts in namespace %s: grant it, as the chart's Role there does, or run podid identity federate %s -n %s",
			c.namespace, id.Name, id.Namespace))
	}
	return reconcile.Result{}, fmt.Errorf("create ServiceAccount %s/%s: %w", c.namespace, name, err)
}

// blind reports on the identity that the existing brokers cannot be listed.
func (c *Controller) blind(ctx context.Context, id *v1.AzureIdentity) error {
	trouble := c.accounts.lastError()
	if !Wanted(id) || !apierrors.IsForbidden(trouble) {
		return nil
	}
	_, err := c.ill(ctx, id, reason.BrokerRefused.Refuse(
		"mic may not list ServiceAccounts in namespace %s: grant it, as the chart's Role there does, or run podid identity federate %s -n %s",
		c.namespace, id.Name, id.Namespace))
	return err
}

// remove deletes the broker of a deleted identity. The cache can lag behind the watch of
// ServiceAccounts, so the API server is asked first.
func (c *Controller) remove(ctx context.Context, of types.NamespacedName, name string, uid types.UID) (reconcile.Result, error) {
	live, err := c.read(ctx, c.live, of)
	if err != nil {
		return reconcile.Result{}, err
	}
	if Wanted(live) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = c.namespace, name
	err = c.client.Delete(ctx, account, client.Preconditions{UID: &uid})
	switch {
	case err == nil:
		logr.FromContextOrDiscard(ctx).Info("broker removed", "serviceAccount", c.namespace+"/"+name)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // it was replaced, which the watch will report
	case apierrors.IsForbidden(err):
		logr.FromContextOrDiscard(ctx).Error(err, "a broker whose identity is gone cannot be removed: grant mic the right to delete ServiceAccounts in the namespace of the brokers",
			"serviceAccount", c.namespace+"/"+name)
	default:
		return reconcile.Result{}, fmt.Errorf("delete ServiceAccount %s/%s: %w", c.namespace, name, err)
	}
	return reconcile.Result{}, nil
}

// outage is an error that affects all brokers alike. While it is recent, no identity sends another
// request: thousands of identities then cost one request, not thousands.
type outage struct {
	mu    sync.Mutex
	err   error
	until time.Time
}

// last returns the error while it is recent.
func (o *outage) last(now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Before(o.until) {
		return o.err
	}
	return nil
}

func (o *outage) note(err error, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err, o.until = err, until
}
