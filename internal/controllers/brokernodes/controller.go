// Package brokernodes maintains the Roles that name the brokers a node's agent may request tokens
// for: those of the identities that pods on the node use.
//
// They are recorded where the chart's admission policy can read them: one Role per node, in the
// namespace of the brokers, that allows a ServiceAccount named after the node to "use" them. That
// ServiceAccount does not exist, and the permission grants nothing. The policy asks the API
// server's authorizer about both.
package brokernodes

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/identity"
)

// rolePrefix is the prefix of the names of a node's Role and RoleBinding. A node name cannot
// contain a colon.
const rolePrefix = "podid:node:"

const (
	workers    = 8
	retryFirst = 50 * time.Millisecond
)

// Controller maintains the Roles.
type Controller struct {
	client    client.Client
	live      client.Reader
	namespace string
	queue     wakeup.Objects

	mu      sync.Mutex
	written map[string]written // by node
}

// written is the last known content of a node's Role, and when it was read or written.
type written struct {
	brokers []string
	at      time.Time
}

// trustWritten is how long that content is trusted. Roles are not watched, and another client may
// have deleted one, or the whole namespace.
const trustWritten = 15 * time.Minute

// NewController returns a Controller. live reads Roles, which are not cached. namespace is that of
// all brokers.
func NewController(client client.Client, live client.Reader, namespace string) *Controller {
	return &Controller{client: client, live: live, namespace: namespace, written: map[string]written{}}
}

// Reconcile brings the Role of one node up to date.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	node := req.Name
	var assigned v1.AzureAssignedIdentityList
	if err := c.client.List(ctx, &assigned, client.MatchingFields{lookup.AssignedByNode: node}, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, fmt.Errorf("list assigned identities of node %s: %w", node, err)
	}
	want := brokersOf(assigned.Items)
	c.mu.Lock()
	have, known := c.written[node]
	c.mu.Unlock()
	if left := time.Until(have.at.Add(trustWritten)); known && left > 0 && slices.Equal(have.brokers, want) {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := c.write(ctx, node, want); err != nil {
		return reconcile.Result{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(want) == 0 {
		delete(c.written, node)
		return reconcile.Result{}, nil
	}
	c.written[node] = written{want, time.Now()}
	return reconcile.Result{RequeueAfter: trustWritten}, nil
}

// Register adds the controller to a manager.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(c.queueOld)); err != nil {
		return fmt.Errorf("look for Roles of nodes: %w", err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("brokernodes").
		Watches(&v1.AzureAssignedIdentity{}, handler.EnqueueRequestsFromMapFunc(nodeOf), builder.WithPredicates(federatedAssigned())).
		WatchesRawSource(source.Func(c.queue.Source)).
		WithOptions(wakeup.Options[reconcile.Request](workers, retryFirst)).
		Complete(c)
}

// federatedAssigned passes assigned identities of type 3 that are created or deleted. Their spec
// does not change.
func federatedAssigned() predicate.Predicate {
	federated := func(o client.Object) bool {
		assigned, ok := o.(*v1.AzureAssignedIdentity)
		return ok && assigned.Spec.AzureIdentityRef != nil && assigned.Spec.AzureIdentityRef.Spec.Type == v1.Federated
	}
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return federated(e.Object) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return federated(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return federated(e.ObjectOld) || federated(e.ObjectNew) },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

func nodeOf(_ context.Context, o client.Object) []reconcile.Request {
	assigned, ok := o.(*v1.AzureAssignedIdentity)
	if !ok || assigned.Spec.NodeName == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: assigned.Spec.NodeName}}}
}

// queueOld queues once the nodes that have a Role, whose pods may have been deleted while no MIC
// ran.
func (c *Controller) queueOld(ctx context.Context) error {
	var roles rbacv1.RoleList
	err := c.live.List(ctx, &roles, client.InNamespace(c.namespace), client.MatchingLabels{federation.ManagedByLabel: federation.ManagedBy})
	if err != nil {
		logr.FromContextOrDiscard(ctx).Error(err, "Roles of nodes that went while no mic ran may be left over: grant mic the right to list them, as the chart does", "namespace", c.namespace)
		return nil // everything else works without it
	}
	for i := range roles.Items {
		if name := roles.Items[i].Name; len(name) > len(rolePrefix) && name[:len(rolePrefix)] == rolePrefix {
			c.queue.Add(types.NamespacedName{Name: name[len(rolePrefix):]})
		}
	}
	return nil
}

// brokersOf returns the brokers that a node's assigned identities need, sorted.
func brokersOf(assigned []v1.AzureAssignedIdentity) []string {
	var brokers []string
	for i := range assigned {
		ref := assigned[i].Spec.AzureIdentityRef
		if ref == nil || ref.Spec.Type != v1.Federated {
			continue
		}
		if broker, err := identity.Broker(&v1.AzureIdentity{ObjectMeta: ref.ObjectMeta, Spec: ref.Spec}); err == nil {
			brokers = append(brokers, broker)
		}
	}
	slices.Sort(brokers)
	return slices.Compact(brokers)
}

// write creates or updates the Role and the RoleBinding of a node. Without brokers it deletes both.
func (c *Controller) write(ctx context.Context, node string, brokers []string) error {
	meta := metav1.ObjectMeta{
		Namespace: c.namespace, Name: rolePrefix + node, Labels: map[string]string{federation.ManagedByLabel: federation.ManagedBy},
	}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{v1.GroupVersion.Group}, Resources: []string{"brokers"}, ResourceNames: brokers, Verbs: []string{"use"},
	}}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: c.namespace, Name: node}},
	}
	if len(brokers) == 0 {
		for _, o := range []client.Object{binding, role} {
			if err := client.IgnoreNotFound(c.client.Delete(ctx, o)); err != nil {
				return fmt.Errorf("delete %T %s/%s: %w", o, c.namespace, meta.Name, err)
			}
		}
		return nil
	}
	if err := c.writeRole(ctx, role); err != nil {
		return fmt.Errorf("write Role %s/%s, without which the agent of node %s gets no tokens of %d brokers: %w", c.namespace, meta.Name, node, len(brokers), err)
	}
	if err := client.IgnoreAlreadyExists(c.client.Create(ctx, binding)); err != nil {
		return fmt.Errorf("create RoleBinding %s/%s: %w", c.namespace, meta.Name, err)
	}
	return nil
}

func (c *Controller) writeRole(ctx context.Context, role *rbacv1.Role) error {
	var have rbacv1.Role
	err := c.live.Get(ctx, client.ObjectKeyFromObject(role), &have)
	switch {
	case apierrors.IsNotFound(err):
		return c.client.Create(ctx, role)
	case err != nil:
		return err
	case equality.Semantic.DeepEqual(have.Rules, role.Rules):
		return nil
	}
	have.Rules = role.Rules
	return c.client.Update(ctx, &have)
}
