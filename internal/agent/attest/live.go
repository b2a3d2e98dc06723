// Which pods can be callers.

package attest

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Live tells whether the pod can have opened a connection from an address of
// its own: it runs, or is pending and its init containers may ask. A pod that
// finished keeps its address in its status while another pod may have got it;
// so does one being deleted whose containers are gone. A pod on the node's own
// network has no address of its own.
func Live(p *corev1.Pod) bool {
	if p.Spec.HostNetwork {
		return false
	}
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

// Addresses are the pod's own, without any that is the node's.
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

// add appends an address once; what is none is left out.
func add(list []netip.Addr, text string) []netip.Addr {
	a, err := netip.ParseAddr(text)
	if a = a.Unmap(); err != nil || slices.Contains(list, a) {
		return list
	}
	return append(list, a)
}

// Strip reduces a pod in place to what Live, Addresses and authorize read, so
// that a node full of pods costs little memory.
func Strip(p *corev1.Pod) {
	meta := &p.ObjectMeta
	meta.ManagedFields, meta.Annotations, meta.OwnerReferences, meta.Finalizers = nil, nil, nil, nil
	p.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork}
	s := p.Status
	p.Status = corev1.PodStatus{
		Phase: s.Phase, HostIP: s.HostIP, HostIPs: s.HostIPs, PodIP: s.PodIP, PodIPs: s.PodIPs,
		ContainerStatuses:          states(s.ContainerStatuses),
		InitContainerStatuses:      states(s.InitContainerStatuses),
		EphemeralContainerStatuses: states(s.EphemeralContainerStatuses),
	}
}

// states keeps of each container whether it runs.
func states(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range statuses {
		if c.State.Running != nil {
			out = append(out, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			break // one that runs is all that Live asks for
		}
	}
	return out
}
