package agenttaint

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// noNodes is an API server without nodes.
type noNodes struct{ client.Reader }

func (noNodes) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(corev1.Resource("nodes"), key.Name)
}

// TestGoneNodes: pod events that arrive after a node's deletion do not keep it in the record.
func TestGoneNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := NewController(noNodes{}, nil, nil, Settings{After: time.Minute})
		r.record.set("node-ill", "nmi-ill", false, start)
		for i := range 9 {
			name := fmt.Sprintf("gone-%d", i)
			r.record.set(name, name, true, start)
			r.record.forget(name)
			r.record.set(name, name, false, start) // a late event of the pod garbage collector
			r.record.remove(name, name, start)
		}
		<-time.After(2 * time.Minute)
		now := time.Now()
		if got, _ := r.record.judge("node-ill", now); got != tooMany {
			t.Fatalf("verdict %d", got)
		}
		for i := range 9 {
			request := reconcile.Request{NamespacedName: types.NamespacedName{Name: fmt.Sprintf("gone-%d", i)}}
			if again, err := r.Reconcile(t.Context(), request); err != nil || !again.IsZero() {
				t.Errorf("%v, %v", again, err)
			}
		}
		if got, _ := r.record.judge("node-ill", now); got != taint || len(r.record.nodes) != 1 {
			t.Errorf("verdict %d with %d nodes", got, len(r.record.nodes))
		}
	})
}
