// Waiting for readiness: by polling until the API server answers, by watches after that.

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
)

// Client returns the configuration of a client outside the sandbox that dials inside it.
func Client(kubeconfig string, ns netns.Namespace) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the sandbox's kubeconfig: %w", err)
	}
	cfg.Dial = ns.Dial
	cfg.QPS, cfg.Burst = 100, 200
	cfg.WarningHandler = rest.NoWarnings{}
	return cfg, nil
}

// WaitAPI returns when the API server is ready. It fails if ended, which it calls between its
// tries, returns an error.
func WaitAPI(ctx context.Context, cfg *rest.Config, ended func() error) error {
	quick := rest.CopyConfig(cfg)
	quick.Timeout = 2 * time.Second
	client, err := kubernetes.NewForConfig(quick)
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		if end := ended(); end != nil {
			return end
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w (last answer: %w)", context.Cause(ctx), err)
		}
	}
}

// WaitNodes returns when that many nodes are ready and the default namespace accepts pods. It
// calls report with the number of ready nodes.
func WaitNodes(ctx context.Context, cfg *rest.Config, want int, report func(ready int)) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("wait for the nodes: %w", err)
	}
	ready := map[string]bool{}
	err = Follow(ctx, func(o metav1.ListOptions) (watch.Interface, error) { return client.CoreV1().Nodes().Watch(ctx, o) },
		func(e watch.Event) bool {
			n, ok := e.Object.(*corev1.Node)
			if !ok {
				return false
			}
			if e.Type != watch.Deleted && NodeReady(n) {
				ready[n.Name] = true
			} else {
				delete(ready, n.Name)
			}
			report(len(ready))
			return len(ready) >= want
		})
	if err != nil {
		return fmt.Errorf("wait for the nodes, %d of %d are ready: %w", len(ready), want, err)
	}
	only := metav1.ListOptions{FieldSelector: "metadata.name=default"}
	err = Follow(ctx, func(o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = only.FieldSelector
		return client.CoreV1().ServiceAccounts("default").Watch(ctx, o)
	}, func(e watch.Event) bool { return e.Type == watch.Added || e.Type == watch.Modified })
	if err != nil {
		return fmt.Errorf("wait for the default service account: %w", err)
	}
	return nil
}

// Follow watches until seen is satisfied, and reopens the watch if the server ends it.
//
// The watch starts at resource version 0, which begins with the existing objects. Without a
// version, the server first waits for a progress notification, which old versions of etcd do not
// send.
func Follow(ctx context.Context, open func(metav1.ListOptions) (watch.Interface, error), seen func(watch.Event) bool) error {
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		w, err := open(metav1.ListOptions{ResourceVersion: "0"})
		if err == nil {
			done := drain(ctx, w, seen)
			w.Stop()
			if done {
				return nil
			}
			err = errors.New("the watch ended")
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%w (last error: %w)", context.Cause(ctx), err)
		}
	}
}

func drain(ctx context.Context, w watch.Interface, seen func(watch.Event) bool) bool {
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return false
			}
			if seen(e) {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// NodeReady reports whether the kubelet has set the node's Ready condition.
func NodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// WaitNode returns when the node is ready and its heartbeat is later than the given time. Until the
// API server notices a crash, a crashed node still looks ready.
func WaitNode(ctx context.Context, cfg *rest.Config, name string, after time.Time) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	err = Follow(ctx, func(o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = "metadata.name=" + name
		return client.CoreV1().Nodes().Watch(ctx, o)
	}, func(e watch.Event) bool {
		n, ok := e.Object.(*corev1.Node)
		return ok && NodeReady(n) && heartbeat(n).After(after.Truncate(time.Second))
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	return nil
}

// heartbeat returns when the kubelet last confirmed that the node is ready.
func heartbeat(n *corev1.Node) time.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastHeartbeatTime.Time
		}
	}
	return time.Time{}
}

// CreateNode creates the Node of a kubelet that is not there yet, with the addresses of its pods.
func CreateNode(ctx context.Context, cfg *rest.Config, n network.Node, providerID string) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create Node %s: %w", n.Name, err)
	}
	object := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name},
		Spec:       corev1.NodeSpec{ProviderID: providerID, PodCIDR: n.Pods.String(), PodCIDRs: []string{n.Pods.String()}},
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Node %s: %w", n.Name, err)
	}
	return nil
}
