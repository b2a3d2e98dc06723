package node

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The pod runs on every node, with no more privileges than the cleanup needs.
func TestPod(t *testing.T) {
	p := Spec{Namespace: "podid-system", Image: "nmi:1", PullSecrets: []string{"mine"}, Args: []string{"--agent-table=x"}, Wait: time.Minute}.Pod("node-1")
	if p.Spec.NodeName != "node-1" || !p.Spec.HostNetwork || p.Spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("does not run once in the node's network: %+v", p.Spec)
	}
	if got := p.Spec.Tolerations; len(got) != 1 || got[0].Operator != corev1.TolerationOpExists || got[0].Key != "" {
		t.Errorf("a taint keeps it away: %v", got)
	}
	container := p.Spec.Containers[0]
	security := container.SecurityContext
	if *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem || security.Privileged != nil ||
		!slices.Equal(security.Capabilities.Add, []corev1.Capability{"BPF", "NET_ADMIN"}) || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("too many privileges: %+v", security)
	}
	if p.Spec.HostPID || p.Spec.HostIPC || len(p.Spec.Volumes) != 1 || p.Spec.Volumes[0].HostPath.Path != "/sys/fs/bpf" || *p.Spec.AutomountServiceAccountToken ||
		p.Spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("too many privileges: %+v", p.Spec)
	}
	if want := []string{"--cleanup", "--cleanup-wait=1m0s", "--node=node-1", "--agent-table=x"}; !slices.Equal(container.Args, want) {
		t.Errorf("arguments %v", container.Args)
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		name    string
		status  corev1.PodStatus
		done    bool
		problem string
	}{
		{"new", corev1.PodStatus{Phase: corev1.PodPending}, false, ""},
		{"succeeded", corev1.PodStatus{Phase: corev1.PodSucceeded}, true, ""},
		{"refused by the kubelet", corev1.PodStatus{Phase: corev1.PodFailed, Message: "no room"}, true, "no room"},
		{"evicted", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}, true, "its pod failed: Evicted"},
		{"said why", corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{
			{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: "a\nb\n"}}},
		}}, true, "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			done, problem := verdict(&corev1.Pod{Status: tt.status})
			if done != tt.done || problem != tt.problem {
				t.Errorf("got %v, %q", done, problem)
			}
		})
	}
}
