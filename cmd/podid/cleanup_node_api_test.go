package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/uninstall"
	nodecleanup "github.com/podid-io/podid/internal/uninstall/node"
)

// TestCleanupNode cleans the nodes of a cluster whose kubelets the test plays: one that works, one
// where an agent still answers, one that cannot pull the image, and one that is not ready. Windows
// and virtual nodes are left alone.
func TestCleanupNode(t *testing.T) {
	kubeconfig, c := startCluster(t)
	for name, system := range map[string]string{"good": "linux", "busy": "linux", "slow": "linux", "ill": "linux", "other": "windows", "virtual": "linux"} {
		ready := corev1.ConditionTrue
		if name == "ill" {
			ready = corev1.ConditionUnknown
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: system}}}
		if name == "virtual" {
			node.Labels["type"] = "virtual-kubelet"
		}
		testenv.Create(t, c, node)
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		if err := c.Status().Update(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	kubelets(t, kubeconfig)

	cleanNodes := func(args ...string) (int, string) {
		var out bytes.Buffer
		args = append([]string{"cleanup", "node", "--kubeconfig", kubeconfig, "-n", "default", "--image", "nmi:1", "--timeout", "10s", "--wait", "1s"}, args...)
		code := run(t.Context(), args, &out, &out)
		return code, out.String()
	}
	code, out := cleanNodes("--all", "--yes")
	for _, want := range []string{
		"good: no redirect\n", "busy: nothing was removed", "slow: it took longer than 10s: its pod waits: ErrImagePull: no such image",
		"ill: the node is not ready", "error: 3 of 4 nodes may still have the redirect",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if code != 1 || strings.Contains(out, "other") || strings.Contains(out, "virtual") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if code, out := cleanNodes("good", "--yes"); code != 0 || out != "good: no redirect\n" {
		t.Errorf("one node: exit code %d:\n%s", code, out)
	}
	if code, out := cleanNodes("nowhere", "--yes"); code != 1 || !strings.Contains(out, "nowhere: read node") {
		t.Errorf("no such node: exit code %d:\n%s", code, out)
	}
	if code, out := cleanNodes("good"); code != 1 || !strings.Contains(out, "no confirmation") {
		t.Errorf("without --yes: exit code %d:\n%s", code, out)
	}
	var left corev1.PodList
	if err := c.List(t.Context(), &left, client.MatchingLabels{nodecleanup.Label: nodecleanup.Component}); err != nil {
		t.Fatal(err)
	}
	for i := range left.Items {
		if left.Items[i].DeletionTimestamp == nil {
			t.Errorf("%s was left behind", left.Items[i].Name)
		}
	}
}

// kubelets set the outcome of a pod by its node.
func kubelets(t *testing.T, kubeconfig string) {
	t.Helper()
	t.Setenv("KUBECONFIG", kubeconfig)
	rest, err := config.GetConfig()
	if err != nil {
		t.Fatal(err)
	}
	scheme, err := uninstall.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(rest, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pods, err := c.Watch(ctx, &corev1.PodList{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range pods.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && event.Type == "ADDED" {
				fate(pod)
				if err := c.Status().Update(ctx, pod); err != nil && ctx.Err() == nil {
					t.Errorf("kubelet: %v", err)
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); pods.Stop(); <-ended })
}

func fate(pod *corev1.Pod) {
	status := corev1.ContainerStatus{Name: "nmi"}
	switch pod.Spec.NodeName {
	case "good":
		pod.Status.Phase = corev1.PodSucceeded
	case "busy":
		pod.Status.Phase = corev1.PodFailed
		status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Message: "starting\nnothing was removed: an agent answers\n"}
	case "slow":
		pod.Status.Phase = corev1.PodPending
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image"}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{status}
}
