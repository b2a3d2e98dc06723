// Events about nodes.

package events

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// AgentNotReady is the reason of a node's taint.
const AgentNotReady = "AgentNotReady"

// NodeTainted reports that a node was tainted to keep new pods away, and why.
func (e *Events) NodeTainted(node *corev1.Node, after time.Duration) {
	regarding := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
	e.warning(regarding, nil, AgentNotReady, actionDecide,
		"the node agent is gone or not ready for %v: taint %s put on; the agent takes it off when it is ready", after, v1.AgentNotReadyTaint)
}
