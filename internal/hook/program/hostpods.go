// Pods on the node's network.
//
// connect4 and connect6 let pass what connects in the node's network namespace: the kubelet,
// network plugins and other agents need the machine's own metadata service. The pods in a map are
// the exception. They are known by their control groups, as all of them share one namespace. It is
// the group of the process that connects that counts here. Whose connection it is, the agent finds
// out by the socket's group.

package program

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Capture makes what a pod on the node's network connects to the metadata service arrive at the
// listener in the node's namespace. Without a listener, and like for other pods to closed services,
// its connects are refused. The pod is given by the ID of its control group, which is below the
// pods'.
func (h *Hook) Capture(group uint64) error {
	if err := h.hostPods.Put(group, uint8(1)); err != nil {
		return fmt.Errorf("capture pod of control group %d: %w", group, err)
	}
	return nil
}

// Free ends Capture for a control group, which may be gone.
func (h *Hook) Free(group uint64) error {
	if err := h.hostPods.Delete(group); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("no longer capture pod of control group %d: %w", group, err)
	}
	return nil
}

// Captured returns the control groups of captured pods.
func (h *Hook) Captured() ([]uint64, error) {
	groups, err := keys[uint8](h.hostPods)
	if err != nil {
		return nil, fmt.Errorf("read captured pods: %w", err)
	}
	return groups, nil
}

// keys returns the keys of a map with values of a type.
func keys[V any](of *ebpf.Map) (all []uint64, err error) {
	var key uint64
	var value V
	entries := of.Iterate()
	for entries.Next(&key, &value) {
		all = append(all, key)
	}
	if err := entries.Err(); err != nil {
		return nil, err
	}
	return all, nil
}
