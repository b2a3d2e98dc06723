// Package hostpods knows the pods on the node's network whose requests are captured, although they
// share the network of the kubelet and of all that needs the machine's own metadata service.
package hostpods

import (
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/privileged"
)

// Choice is which pods on the node's network are captured: a value of privileged.Options.HostPods.
// It is the cluster owner's.
type Choice string

// Of reports whether a pod is one of those. It is false for a pod with a network of its own.
func (c Choice) Of(p *corev1.Pod) bool {
	if !p.Spec.HostNetwork {
		return false
	}
	switch c {
	case privileged.HostPodsLabel:
		return p.Labels[v1.CaptureHostNetworkLabel] == "true"
	case privileged.HostPodsBound:
		return p.Labels[v1.BindingLabel] != ""
	}
	return false
}

// Set is the pods of this node that are captured, by the UID in the names of their control groups.
// It is safe for concurrent use.
type Set struct {
	mu      sync.Mutex
	pods    map[types.NamespacedName]types.UID
	changed chan struct{}
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{pods: map[types.NamespacedName]types.UID{}, changed: make(chan struct{})}
}

// Set adds a pod.
func (s *Set) Set(key types.NamespacedName, group types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[key] != group {
		s.pods[key] = group
		s.wake()
	}
}

// Remove removes a pod, if the set has it.
func (s *Set) Remove(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pods[key]; ok {
		delete(s.pods, key)
		s.wake()
	}
}

// Appeared handles that the control group of a pod is there. If the set has the pod, it is to be
// asked for again.
func (s *Set) Appeared(group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, uid := range s.pods {
		if string(uid) == group {
			s.wake()
			return
		}
	}
}

// wake closes the channel that List has returned. The caller must hold mu.
func (s *Set) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// List returns the pods, and a channel that is closed when they are to be asked for again. There
// are protocol.MaxPods at most; more than that a node does not have.
func (s *Set) List() (groups []string, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unique := map[string]bool{}
	for _, uid := range s.pods {
		unique[string(uid)] = true
	}
	groups = slices.Sorted(maps.Keys(unique))
	return groups[:min(len(groups), protocol.MaxPods)], s.changed
}
