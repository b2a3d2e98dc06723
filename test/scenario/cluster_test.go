// The stories' view of the cluster.
package scenario_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// release is the namespace of the installation, and daemons the agents' DaemonSet there.
const (
	release  = "podid"
	daemons  = "podid-nmi"
	nmi, mic = "nmi", "mic"
)

// component selects podid's pods of a kind.
func component(kind string) client.MatchingLabels {
	return client.MatchingLabels{"app.kubernetes.io/instance": release, "app.kubernetes.io/component": kind}
}

// cluster is the sandbox with podid installed.
type cluster struct {
	client.WithWatch
	pods    kubernetes.Interface // for logs
	azure   *azure
	sandbox *sandbox.Sandbox
	plane   network.Dataplane
	capture string
	report  *progress.Reporter
	// passedBy is how many packets of pods have passed by the agents in stories that are about that.
	passedBy uint64
}

func openCluster(name string) (*cluster, error) {
	report := progress.New(progressFile())
	s, err := sandbox.New(name, report)
	if err != nil {
		return nil, err
	}
	config, err := s.Client()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), rbacv1.AddToScheme(scheme), appsv1.AddToScheme(scheme), v1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	objects, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	pods, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	plane, capture, err := choice()
	if err != nil {
		return nil, err
	}
	a, err := newAzure(s)
	return &cluster{WithWatch: objects, pods: pods, azure: a, sandbox: s, plane: plane, capture: capture, report: report}, err
}

// follow watches the objects of a kind, beginning with the existing ones, until seen is satisfied.
func follow[T client.Object](ctx context.Context, c *cluster, list client.ObjectList, seen func(watch.EventType, T) bool, o ...client.ListOption) error {
	return controlplane.Follow(ctx,
		func(from metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, list, append([]client.ListOption{&client.ListOptions{Raw: &from}}, o...)...)
		},
		func(e watch.Event) bool {
			object, ok := e.Object.(T)
			return ok && seen(e.Type, object)
		})
}

// awaitNone waits until no object of the list's kind matches. It lists again when a matching one is
// deleted.
func (c *cluster) awaitNone(ctx context.Context, list client.ObjectList, those func(client.Object) bool, o ...client.ListOption) error {
	for {
		if err := c.List(ctx, list, o...); err != nil {
			return err
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(items, func(item runtime.Object) bool {
			object, ok := item.(client.Object)
			return ok && those(object)
		}) {
			return nil
		}
		from := append([]client.ListOption{&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}}}, o...)
		w, err := c.Watch(ctx, list, from...)
		if err != nil {
			return err
		}
		err = awaitDeletion(ctx, w, those)
		w.Stop()
		if err != nil {
			return err
		}
	}
}

// awaitDeletion returns when a matching object is deleted, or the watch ends.
func awaitDeletion(ctx context.Context, w watch.Interface, those func(client.Object) bool) error {
	for {
		select {
		case e, ok := <-w.ResultChan():
			object, isObject := e.Object.(client.Object)
			if !ok || !isObject || e.Type == watch.Deleted && those(object) {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// kubectl runs kubectl inside the sandbox and returns its output.
func (c *cluster) kubectl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := c.sandbox.Command(exec.CommandContext(ctx, filepath.Join(c.sandbox.Layout().Dir(), "bin/kubectl"), args...))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := c.sandbox.RunInside(cmd); err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s%s", args[0], err, out.String(), errs.String())
	}
	return out.Bytes(), nil
}

// logs returns a container's output so far, or why it is not available.
func (c *cluster) logs(ctx context.Context, namespace, pod, container string, lines int64) string {
	options := &corev1.PodLogOptions{Container: container}
	if lines > 0 {
		options.TailLines = &lines
	}
	raw, err := c.pods.CoreV1().Pods(namespace).GetLogs(pod, options).DoRaw(ctx)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw))
}

// explain logs what helps to find out why a story failed.
func (c *cluster) explain(t *testing.T, namespaces ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	for _, ns := range namespaces {
		for _, what := range []string{"pods,azureidentities,azureidentitybindings,azureassignedidentities,azurepodidentityexceptions", "events"} {
			out, err := c.kubectl(ctx, "get", what, "-n", ns, "-o", "wide")
			if err == nil {
				t.Logf("%s in %s:\n%s", what, ns, out)
			}
		}
	}
	var agents corev1.PodList
	if err := c.List(ctx, &agents, client.InNamespace(release)); err != nil {
		t.Log(err)
	}
	for _, p := range agents.Items {
		t.Logf("%s on %s, %s, said at last:\n%s", p.Name, p.Spec.NodeName, p.Status.Phase, c.logs(ctx, release, p.Name, "", 25))
	}
}
