// Cleaning many nodes at once.

package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const (
	// parallel is how many nodes are cleaned at once.
	parallel = 50
	// deleteTimeout bounds the deletion of a pod.
	deleteTimeout = 10 * time.Second
)

// Result is the outcome for one node; without an error, it has no redirect.
type Result struct {
	Node string
	Err  error
}

// Cleaner cleans nodes.
type Cleaner struct {
	core *rest.RESTClient
	spec Spec
	// timeout is how long a node may take, from the pod's creation to its end.
	timeout time.Duration
}

// New returns a Cleaner. timeout bounds the time of one node, including pulling the image and
// Spec.Wait.
func New(config *rest.Config, spec Spec, timeout time.Duration) (*Cleaner, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register the kinds of v1: %w", err)
	}
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	core, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("create a client: %w", err)
	}
	return &Cleaner{core: core, spec: spec, timeout: timeout}, nil
}

// agentNodes selects the nodes on which the chart runs agents: all Linux nodes that are not virtual
// (virtual-kubelet), where pods cannot have capabilities.
const agentNodes = "kubernetes.io/os=linux,type!=virtual-kubelet"

// Nodes returns the nodes that can have a redirect.
func (c *Cleaner) Nodes(ctx context.Context) ([]string, error) {
	var list corev1.NodeList
	if err := c.core.Get().Resource("nodes").Param("labelSelector", agentNodes).Do(ctx).Into(&list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	slices.Sort(names)
	return names, nil
}

// Run cleans nodes and calls done for each, never concurrently. Its error counts those that failed.
func (c *Cleaner) Run(ctx context.Context, nodes []string, done func(Result)) error {
	var mu sync.Mutex
	failed := 0
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, node := range nodes {
		group.Go(func() error {
			err := c.clean(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
			}
			done(Result{Node: node, Err: err})
			return nil
		})
	}
	_ = group.Wait() // done got the errors
	if failed > 0 {
		return fmt.Errorf("%d of %d nodes may still have the redirect", failed, len(nodes))
	}
	return nil
}

// clean cleans one node.
func (c *Cleaner) clean(ctx context.Context, node string) error {
	bounded, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("it took longer than %v", c.timeout))
	defer cancel()
	if err := c.ready(bounded, node); err != nil {
		return err
	}
	var pod corev1.Pod
	err := c.core.Post().Namespace(c.spec.Namespace).Resource("pods").Body(c.spec.Pod(node)).Do(bounded).Into(&pod)
	if err != nil {
		return fmt.Errorf("create a pod: %w", err)
	}
	err = c.await(bounded, &pod)
	return errors.Join(err, c.remove(ctx, &pod))
}

// ready fails if the node cannot start the pod.
func (c *Cleaner) ready(ctx context.Context, name string) error {
	var node corev1.Node
	if err := c.core.Get().Resource("nodes").Name(name).Do(ctx).Into(&node); err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return errors.New("the node is not ready: try again later, or reboot it, which removes the redirect, too")
		}
	}
	return nil
}

// await watches a pod until it has ended.
func (c *Cleaner) await(ctx context.Context, pod *corev1.Pod) error {
	last := ""
	for {
		done, problem, err := c.follow(ctx, pod, &last)
		switch {
		case done && problem == "":
			return nil
		case done:
			return errors.New(problem)
		case ctx.Err() != nil && last != "":
			return fmt.Errorf("%w: its pod waits: %s", context.Cause(ctx), last)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("watch pod: %w", err)
		}
	}
}

// follow is one watch, which may end before the pod does. It sets last to what the pod waits for.
func (c *Cleaner) follow(ctx context.Context, pod *corev1.Pod, last *string) (done bool, problem string, err error) {
	// Without a resource version, the watch begins with the pod's present state.
	w, err := c.core.Get().Namespace(pod.Namespace).Resource("pods").Param("watch", "true").
		Param("fieldSelector", "metadata.name="+pod.Name).Watch(ctx)
	if err != nil {
		return false, "", err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		switch object := event.Object.(type) {
		case *corev1.Pod:
			if object.UID != pod.UID {
				continue
			}
			if done, problem := verdict(object); done {
				return true, problem, nil
			} else if problem != "" {
				*last = problem
			}
			if event.Type == "DELETED" {
				return true, "its pod was deleted", nil
			}
		case *metav1.Status:
			return false, "", apierrors.FromObject(object)
		}
	}
	return false, "", nil
}

// remove deletes a pod, even if ctx has ended.
func (c *Cleaner) remove(ctx context.Context, pod *corev1.Pod) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &[]types.UID{pod.UID}[0]}}
	err := c.core.Delete().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).Body(options).Do(bounded).Error()
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	return nil
}

// lastLine returns the last line of a log.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
