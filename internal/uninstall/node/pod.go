// Package node removes what the agent put on nodes after an uninstall: the redirect, and what
// captures inside pods: on each node, a short-lived pod runs nmi --cleanup in the node's network.
// `podid cleanup node` and the chart's uninstall hook use it.
package node

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Label is on every pod of a cleanup; its value is Component.
const (
	Label     = "app.kubernetes.io/component"
	Component = "nmi-cleanup"
)

// Spec is what the pods are created from.
type Spec struct {
	Namespace   string
	Image       string // nmi's
	PullSecrets []string
	// Args are further arguments of nmi, such as --agent-table.
	Args []string
	// Wait is how long nmi waits for the agent on its node to exit.
	Wait time.Duration
}

// bpfFolder is where the pins are of what captures inside pods.
const bpfFolder = "/sys/fs/bpf"

// Pod returns the pod for a node. It names the node, so that neither taints nor the scheduler keep
// it away.
func (s Spec) Pod(node string) *corev1.Pod {
	args := append([]string{"--cleanup", "--cleanup-wait=" + s.Wait.String(), "--node=" + node}, s.Args...)
	var secrets []corev1.LocalObjectReference
	for _, name := range s.PullSecrets {
		secrets = append(secrets, corev1.LocalObjectReference{Name: name})
	}
	no, yes, root := false, true, int64(0)
	const bpf = "bpf"
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "podid-cleanup-", Namespace: s.Namespace,
			Labels:      map[string]string{"app.kubernetes.io/name": "podid", Label: Component},
			Annotations: map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "nmi": "unconfined"},
		},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: true, DNSPolicy: corev1.DNSDefault, RestartPolicy: corev1.RestartPolicyNever,
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no, ImagePullSecrets: secrets,
			PriorityClassName: "system-node-critical",
			Tolerations:       []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			SecurityContext: &corev1.PodSecurityContext{
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "nmi", Image: s.Image, Args: args,
				// The last line is the reason of a failure.
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				SecurityContext: &corev1.SecurityContext{
					RunAsUser: &root, RunAsGroup: &root, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
					// The default profile of container runtimes lets no container write below /sys/fs/bpf.
					// Kubernetes before 1.30 knows the annotation only.
					AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
					Capabilities:    &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"BPF", "NET_ADMIN"}},
				},
				VolumeMounts: []corev1.VolumeMount{{Name: bpf, MountPath: bpfFolder}},
			}},
			Volumes: []corev1.Volume{{Name: bpf, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: bpfFolder}}}},
		},
	}
}

// verdict returns whether a pod has ended, and why it failed or what it waits for.
func verdict(p *corev1.Pod) (done bool, problem string) {
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		return true, ""
	case corev1.PodFailed:
		for i := range p.Status.ContainerStatuses {
			if t := p.Status.ContainerStatuses[i].State.Terminated; t != nil && t.Message != "" {
				return true, lastLine(t.Message)
			}
		}
		if p.Status.Message != "" {
			return true, p.Status.Message
		}
		return true, "its pod failed: " + p.Status.Reason
	case corev1.PodPending, corev1.PodRunning, corev1.PodUnknown:
	}
	return false, waiting(p)
}

// waiting returns what a pod waits for, "" if its status does not say so.
func waiting(p *corev1.Pod) string {
	for i := range p.Status.ContainerStatuses {
		if w := p.Status.ContainerStatuses[i].State.Waiting; w != nil && w.Reason != "" {
			return w.Reason + ": " + w.Message
		}
	}
	return ""
}
