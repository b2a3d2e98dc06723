// Which pods can be callers.

package attest

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
)

// Live reports whether the pod can have opened a connection from an address of its own: it runs, or
// it is pending and its init containers may ask. A pod that finished keeps its address in its
// status although another pod may have it. So does one being deleted whose containers are gone. A
// pod on the node's own network has no address of its own.
func Live(p *corev1.Pod) bool { return !p.Spec.HostNetwork && exists(p) }

// exists reports whether the pod has not finished: it runs, or it is pending, with an address or
// without one yet. A process of the host may ask for the token of such a pod by its name, for
// example to mount its volumes.
func exists(p *corev1.Pod) bool {
	if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
		return false
	}
	return p.DeletionTimestamp.IsZero() || anyRunning(&p.Status)
}

func anyRunning(s *corev1.PodStatus) bool {
	running := func(c corev1.ContainerStatus) bool { return c.State.Running != nil }
	return slices.ContainsFunc(s.ContainerStatuses, running) ||
		slices.ContainsFunc(s.InitContainerStatuses, running) ||
		slices.ContainsFunc(s.EphemeralContainerStatuses, running)
}

// callerAddresses returns the addresses at which the pod can be a caller. A pod without a sandbox
// has none: its status keeps the last address, which may belong to another pod by now.
func callerAddresses(p *corev1.Pod) []netip.Addr {
	if !Live(p) || lostSandbox(p) {
		return nil
	}
	return Addresses(p)
}

// lostSandbox reports whether the kubelet says that the pod has no sandbox with a network (the
// condition exists since Kubernetes 1.29), and no container of it runs.
func lostSandbox(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers {
			return c.Status == corev1.ConditionFalse && !anyRunning(&p.Status)
		}
	}
	return false
}

// Addresses returns the pod's own addresses, without the node's.
func Addresses(p *corev1.Pod) []netip.Addr {
	var hosts, own []netip.Addr
	hosts = add(hosts, p.Status.HostIP)
	for _, h := range p.Status.HostIPs {
		hosts = add(hosts, h.IP)
	}
	own = add(own, p.Status.PodIP)
	for _, ip := range p.Status.PodIPs {
		own = add(own, ip.IP)
	}
	return slices.DeleteFunc(own, func(a netip.Addr) bool {
		return slices.Contains(hosts, a) || a.IsUnspecified() || a.IsLoopback()
	})
}

// add appends an address unless the list has it. It ignores text that is no address.
func add(list []netip.Addr, text string) []netip.Addr {
	a, err := netip.ParseAddr(text)
	if a = a.Unmap(); err != nil || slices.Contains(list, a) {
		return list
	}
	return append(list, a)
}

// GroupUID returns the UID in the name of the pod's control group. For a static pod this is the
// hash of its manifest, which the mirror pod has in an annotation. Other writers can set that
// annotation, too. A hash has no dashes, so it is never the UID of a pod that the API server has
// made.
func GroupUID(p *corev1.Pod) types.UID {
	if hash, ok := manifestHash(p); ok {
		return types.UID(hash)
	}
	return p.UID
}

// manifestHash returns the hash of a mirror pod's manifest, or false if the pod has none.
func manifestHash(p *corev1.Pod) (hash string, ok bool) {
	hash = p.Annotations[corev1.MirrorPodAnnotationKey]
	return hash, len(hash) == hashLength && !strings.ContainsFunc(hash, notHex)
}

// hashLength is the length of an MD5 hash, which the kubelet uses, in hexadecimal digits.
const hashLength = 32

func notHex(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }

// Strip reduces a pod in place to what Live, Addresses, GroupUID and authorize read, so that a node
// full of pods costs little memory.
func Strip(p *corev1.Pod) {
	meta := &p.ObjectMeta
	mirror, static := manifestHash(p)
	meta.ManagedFields, meta.Annotations, meta.OwnerReferences, meta.Finalizers = nil, nil, nil, nil
	if static {
		meta.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: mirror}
	}
	p.Labels = labels(p.Labels)
	p.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, ServiceAccountName: p.Spec.ServiceAccountName}
	s := p.Status
	p.Status = corev1.PodStatus{
		Phase: s.Phase, HostIP: s.HostIP, HostIPs: s.HostIPs, PodIP: s.PodIP, PodIPs: s.PodIPs,
		ContainerStatuses:          states(s.ContainerStatuses),
		InitContainerStatuses:      states(s.InitContainerStatuses),
		EphemeralContainerStatuses: states(s.EphemeralContainerStatuses),
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReadyToStartContainers {
			p.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
}

// maxLabels is how many labels a pod may have for exceptions to match it.
const maxLabels = 64

// labels returns a pod's labels. Of a pod with more than maxLabels, only those are kept that have a
// meaning of their own: some tens of such pods would fill the agent's memory. No exception selects
// it then.
func labels(all map[string]string) map[string]string {
	if len(all) <= maxLabels {
		return all
	}
	var kept map[string]string
	for _, name := range []string{v1.BindingLabel, v1.CaptureHostNetworkLabel} {
		if value, ok := all[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}

// states returns the youngest running container, which is all that Live and readySince read.
func states(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	var youngest *corev1.ContainerStateRunning
	for _, c := range statuses {
		if r := c.State.Running; r != nil && (youngest == nil || r.StartedAt.After(youngest.StartedAt.Time)) {
			youngest = r
		}
	}
	if youngest == nil {
		return nil
	}
	return []corev1.ContainerStatus{{State: corev1.ContainerState{Running: youngest}}}
}

// readySince returns when the kubelet, by the clock of this node, last gave the pod a network.
// Since Kubernetes 1.29 a condition has the time. Before, it is no later than the start of the
// youngest container. It is zero if neither is known yet.
func readySince(p *corev1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers {
			if c.Status != corev1.ConditionTrue {
				return time.Time{}
			}
			return c.LastTransitionTime.Time
		}
	}
	var since time.Time
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if r := c.State.Running; r != nil && r.StartedAt.After(since) {
				since = r.StartedAt.Time
			}
		}
	}
	return since
}
