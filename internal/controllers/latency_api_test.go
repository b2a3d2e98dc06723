package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolswatch "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// BenchmarkAssign measures the time from a pod's scheduling until a watch sees its identity
// Assigned. The cases are an identity that the node group already has, and a new one with updates
// that take no time or 2 s.
func BenchmarkAssign(b *testing.B) {
	kube := startServer(b)
	for _, c := range []struct {
		name    string
		present bool
		arm     time.Duration
	}{
		{"present", true, 0},
		{"absent-arm-0s", false, 0},
		{"absent-arm-2s", false, 2 * time.Second},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, kube, fmt.Sprintf("bench-%s-%d", c.name, b.N))
			w.cloud.SetDuration(c.arm)
			w.start()
			events := w.watch()
			var took []time.Duration
			for i := range b.N {
				took = append(took, w.measure(events, i, c.present))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}

// measure times one pod. present is whether its identity is on the node group already.
func (w *world) measure(events watch.Interface, i int, present bool) time.Duration {
	w.t.Helper()
	name := fmt.Sprintf("id%d", i)
	if present {
		name = "same"
	}
	if !present || i == 0 {
		w.managed(name)
	}
	if present && i == 0 {
		w.pod("first", name)
		w.waitState("first", v1.StateAssigned)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	pod := w.newPod(fmt.Sprintf("p%d", i), name, w.nodes[0])
	w.create(pod)
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			w.t.Fatalf("pod %d not assigned", i)
		case event, ok := <-events.ResultChan():
			if !ok || event.Type == watch.Error {
				w.t.Fatalf("watch ended: %+v", event.Object)
			}
			if assigned(event, pod) {
				return time.Since(began)
			}
		}
	}
}

// watch watches the assigned identities of the world from now on. If the busy API server ends the
// watch, it resumes at the same version, so that no write is missed.
func (w *world) watch() watch.Interface {
	w.t.Helper()
	var list v1.AzureAssignedIdentityList
	w.must(w.client.List(w.t.Context(), &list, client.InNamespace(w.namespace)))
	events, err := toolswatch.NewRetryWatcherWithContext(w.t.Context(), list.ResourceVersion, watchFunc(
		func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return w.watching().Watch(ctx, &v1.AzureAssignedIdentityList{}, client.InNamespace(w.namespace), &client.ListOptions{Raw: &options})
		}))
	w.must(err)
	w.t.Cleanup(events.Stop)
	return events
}

// watchFunc adapts a function for client-go's retry watcher.
type watchFunc func(context.Context, metav1.ListOptions) (watch.Interface, error)

// WatchWithContext implements cache.WatcherWithContext.
func (f watchFunc) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return f(ctx, options)
}

func assigned(event watch.Event, pod *corev1.Pod) bool {
	a, ok := event.Object.(*v1.AzureAssignedIdentity)
	return ok && a.Spec.Pod == pod.Name && a.Status.Status == v1.StateAssigned
}
