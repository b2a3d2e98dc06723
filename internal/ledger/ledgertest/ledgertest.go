// Package ledgertest has an API server in memory for tests of ledgers, and large entries.
package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// maxData is how much data the API server accepts in one ConfigMap.
const maxData = 1 << 20

// Limit makes the API server in memory refuse ConfigMaps of more than 1 MiB, as the real one does,
// and more ConfigMaps than quota; 0 means any number.
func Limit(b *fake.ClientBuilder, quota int) *fake.ClientBuilder {
	return b.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := check(o); err != nil {
				return err
			}
			var list corev1.ConfigMapList
			if err := c.List(ctx, &list); err != nil {
				return err
			}
			if quota > 0 && len(list.Items) >= quota {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, o.GetName(), errors.New("exceeded quota"))
			}
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := check(o); err != nil {
				return err
			}
			return c.Update(ctx, o, opts...)
		},
	})
}

func check(o client.Object) error {
	cm, ok := o.(*corev1.ConfigMap)
	if !ok {
		return nil
	}
	size := 0
	for _, v := range cm.Data {
		size += len(v)
	}
	if size <= maxData {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, cm.Name, field.ErrorList{field.TooLong(field.NewPath(""), cm, maxData)})
}

// LongID returns a resource ID of the greatest length that Azure allows: letters of any script,
// three bytes each.
func LongID(n int) string {
	return "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/" + strings.Repeat("資", 90) +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + fmt.Sprintf("%0128d", n)
}
