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
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// lookAgain is the retry interval for problems that a person has to fix and that no watch reports:
// a missing namespace or permission.
const lookAgain = 10 * time.Second

// Events emits Events. It is implemented by events.Events.
type Events interface {
	// BrokerMissing reports why a federated identity has no broker and what to do, once per change.
	// An empty why clears it.
	BrokerMissing(id *v1.AzureIdentity, why string)
	// ForgetBroker drops what was reported about a deleted identity.
	ForgetBroker(namespace, name string)
}

// Accounts are the ServiceAccounts in the brokers' namespace that have podid's label. It is
// implemented by Watch.
type Accounts interface {
	// Synced reports whether all of them are known.
	Synced() bool
	// Trouble returns why they are not known, or nil if nothing failed.
	Trouble() error
	// UID returns the UID of the ServiceAccount of this name, or "" if it does not exist.
	UID(name string) types.UID
}

// Reconciler creates and deletes brokers.
type Reconciler struct {
	// Client reads identities from the cache.
	Client client.Client
	// Live reads from the API server.
	Live     client.Reader
	Events   Events
	Accounts Accounts
	// Namespace is the namespace of all brokers.
	Namespace string
	Now       func() time.Time

	kicks  wakeup.Queue[reconcile.Request]
	outage outage
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

// Reconcile handles one identity, which need not exist.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	id, err := r.read(ctx, r.Client, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !r.Accounts.Synced() { // all are queued again once it is synced
		return reconcile.Result{}, r.blind(ctx, id)
	}
	name := req.Namespace + "." + req.Name
	have := r.Accounts.UID(name)
	switch {
	case Wanted(id) && have == "":
		return r.create(ctx, id, name)
	case Wanted(id):
		return reconcile.Result{}, r.well(ctx, id)
	case id == nil:
		r.Events.ForgetBroker(req.Namespace, req.Name)
	default:
		r.Events.BrokerMissing(id, "")
	}
	if have == "" {
		return reconcile.Result{}, nil
	}
	return r.remove(ctx, req.NamespacedName, name, have)
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
func (r *Reconciler) read(ctx context.Context, from client.Reader, name types.NamespacedName) (*v1.AzureIdentity, error) {
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
func (r *Reconciler) create(ctx context.Context, id *v1.AzureIdentity, name string) (reconcile.Result, error) {
	err := r.outage.last(r.Now())
	if err == nil {
		err = r.Client.Create(ctx, federation.Account(id, r.Namespace, name))
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			r.outage.note(err, r.Now().Add(lookAgain-lookAgain/10))
		}
	}
	switch {
	case err == nil:
		logr.FromContextOrDiscard(ctx).Info("broker made", "serviceAccount", r.Namespace+"/"+name)
		return reconcile.Result{}, r.well(ctx, id)
	case apierrors.IsAlreadyExists(err):
		// Either the watch has not reported it yet, or another client created it without podid's
		// label. Both work: the agent requests tokens by name.
		return reconcile.Result{}, r.well(ctx, id)
	case apierrors.IsNotFound(err):
		return r.ill(ctx, id, reason.BrokerNamespaceMissing.Refuse(
			"the namespace of the brokers, %s, does not exist: create it, as the chart does, or name another with mic's and nmi's --broker-namespace", r.Namespace))
	case apierrors.IsForbidden(err):
		return r.ill(ctx, id, reason.BrokerRefused.Refuse(
			"mic may not create ServiceAccounts in namespace %s: grant it, as the chart's Role there does, or run podid identity federate %s -n %s",
			r.Namespace, id.Name, id.Namespace))
	}
	return reconcile.Result{}, fmt.Errorf("create ServiceAccount %s/%s: %w", r.Namespace, name, err)
}

// blind reports on the identity that the existing brokers cannot be listed.
func (r *Reconciler) blind(ctx context.Context, id *v1.AzureIdentity) error {
	trouble := r.Accounts.Trouble()
	if !Wanted(id) || !apierrors.IsForbidden(trouble) {
		return nil
	}
	_, err := r.ill(ctx, id, reason.BrokerRefused.Refuse(
		"mic may not list ServiceAccounts in namespace %s: grant it, as the chart's Role there does, or run podid identity federate %s -n %s",
		r.Namespace, id.Name, id.Namespace))
	return err
}

// remove deletes the broker of a deleted identity. The cache can lag behind the watch of
// ServiceAccounts, so the API server is asked first.
func (r *Reconciler) remove(ctx context.Context, of types.NamespacedName, name string, uid types.UID) (reconcile.Result, error) {
	live, err := r.read(ctx, r.Live, of)
	if err != nil {
		return reconcile.Result{}, err
	}
	if Wanted(live) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = r.Namespace, name
	err = r.Client.Delete(ctx, account, client.Preconditions{UID: &uid})
	switch {
	case err == nil:
		logr.FromContextOrDiscard(ctx).Info("broker removed", "serviceAccount", r.Namespace+"/"+name)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // it was replaced, which the watch will report
	case apierrors.IsForbidden(err):
		logr.FromContextOrDiscard(ctx).Error(err, "a broker whose identity is gone cannot be removed: grant mic the right to delete ServiceAccounts in the namespace of the brokers",
			"serviceAccount", r.Namespace+"/"+name)
	default:
		return reconcile.Result{}, fmt.Errorf("delete ServiceAccount %s/%s: %w", r.Namespace, name, err)
	}
	return reconcile.Result{}, nil
}

// identityOf returns the identity whose broker has this name. A namespace contains no dot.
func identityOf(broker string) (types.NamespacedName, bool) {
	namespace, name, ok := strings.Cut(broker, ".")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok && namespace != "" && name != ""
}
