package brokernodes

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
)

// rolesGone is an API server with one federated pod, whose Roles another client keeps deleting.
type rolesGone struct {
	client.Client
	made int
}

func (*rolesGone) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	if assigned, ok := list.(*v1.AzureAssignedIdentityList); ok {
		id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "shop"}, Spec: v1.AzureIdentitySpec{Type: v1.Federated}}
		assigned.Items = make([]v1.AzureAssignedIdentity, 1)
		assigned.Items[0].Spec.AzureIdentityRef = &v1.AzureIdentityCopy{ObjectMeta: id.ObjectMeta, Spec: id.Spec}
	}
	return nil
}

func (*rolesGone) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(rbacv1.Resource("roles"), key.Name)
}

func (g *rolesGone) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	if _, ok := o.(*rbacv1.Role); ok {
		g.made++
	}
	return nil
}

// TestRoleComesBack: a deleted Role is created again, without constant polling.
func TestRoleComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &rolesGone{}
		n := NewController(g, g, "brokers")
		for i := range 4 {
			again, err := n.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "node"}})
			if want := 1 + i/2; err != nil || g.made != want || again.RequeueAfter <= 0 || again.RequeueAfter > trustWritten {
				t.Errorf("look %d: %v, %v, %d Roles made, want %d", i, again, err, g.made, want)
			}
			if i == 1 {
				<-time.After(again.RequeueAfter)
			}
		}
	})
}
