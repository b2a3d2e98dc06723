// Carrying it out, on many nodes at once.

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
	// parallel is how many nodes are cleaned at the same time.
	parallel = 50
	// deleteTime is how long the deletion of a pod may take when all else is over.
	deleteTime = 10 * time.Second
)

// Result is what became of one node; a nil error says that it has no redirect.
type Result struct {
	Node string
	Err  error
}

// Cleaner cleans nodes.
type Cleaner struct {
	core *rest.RESTClient
	spec Spec
	// patience is how long a node may take, from the pod's creation to its end.
	patience time.Duration
}

// New prepares a cleaner; it sends nothing yet. patience bounds what one node may take: the image must come, and Spec.Wait
// is part of it.
func New(config *rest.Config, spec Spec, patience time.Duration) (*Cleaner, error) {
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
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return &Cleaner{core: core, spec: spec, patience: patience}, nil
}

// nodesOfAgents selects the nodes that the chart puts agents on: all that run Linux and are not
// virtual (virtual-kubelet), where no pod can have a capability.
const nodesOfAgents = "kubernetes.io/os=linux,type!=virtual-kubelet"

// Nodes lists those that can have a redirect.
func (c *Cleaner) Nodes(ctx context.Context) ([]string, error) {
	var list corev1.NodeList
	if err := c.core.Get().Resource("nodes").Param("labelSelector", nodesOfAgents).Do(ctx).Into(&list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	slices.Sort(names)
	return names, nil
}

// Run cleans nodes, some at a time, and tells of each as it ends. Its error counts those that failed.
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
	_ = group.Wait() // each has told its own error
	if failed > 0 {
		return fmt.Errorf("%d of %d nodes may still have the redirect", failed, len(nodes))
	}
	return nil
}

// clean is one node.
func (c *Cleaner) clean(ctx context.Context, node string) error {
	bounded, cancel := context.WithTimeoutCause(ctx, c.patience, fmt.Errorf("it took longer than %v", c.patience))
	defer cancel()
	if err := c.ready(bounded, node); err != nil {
		return err
	}
	var pod corev1.Pod
	if err := c.core.Post().Namespace(c.spec.Namespace).Resource("pods").Body(c.spec.Pod(node)).Do(bounded).Into(&pod); err != nil {
		return fmt.Errorf("make a pod: %w", err)
	}
	err := c.await(bounded, &pod)
	return errors.Join(err, c.remove(ctx, &pod))
}

// ready refuses a node that will not start the pod.
func (c *Cleaner) ready(ctx context.Context, name string) error {
	var node corev1.Node
	if err := c.core.Get().Resource("nodes").Name(name).Do(ctx).Into(&node); err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return errors.New("the node is not ready: a reboot removes the redirect, too, or try again later")
		}
	}
	return nil
}

// await waits for the end of a pod, on a watch.
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

// follow is one watch; it may end before the pod does. last is what the pod waits for.
func (c *Cleaner) follow(ctx context.Context, pod *corev1.Pod, last *string) (done bool, problem string, err error) {
	// Without a resource version it begins with the pod as it is.
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
				return true, "somebody deleted its pod", nil
			}
		case *metav1.Status:
			return false, "", apierrors.FromObject(object)
		}
	}
	return false, "", nil
}

// remove deletes a pod, also when ctx has ended.
func (c *Cleaner) remove(ctx context.Context, pod *corev1.Pod) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTime)
	defer cancel()
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &[]types.UID{pod.UID}[0]}}
	err := c.core.Delete().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).Body(options).Do(bounded).Error()
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	return nil
}

// lastLine is the last line of a log.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
