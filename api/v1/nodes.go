// What podid writes to nodes.

package v1

// AgentNotReadyTaint is the key of a taint (effect NoSchedule) that a node can join the cluster
// with. It keeps pods away until the node's agent runs. NMI removes it when it is ready. MIC can be
// configured to add it when the agent is missing or unhealthy. New in podid.
const AgentNotReadyTaint = "aadpodidentity.k8s.io/agent-not-ready"

// CaptureAnnotation is the key of a node's annotation: how requests of pods reached the agent there
// when an agent last changed that. New in podid.
const CaptureAnnotation = "aadpodidentity.k8s.io/capture"

// The values of CaptureAnnotation.
const (
	// CapturePod means that pods are answered inside their own network.
	CapturePod = "pod"
	// CaptureWire means that pods are answered on the node's network.
	CaptureWire = "wire"
	// CaptureNone means that pods are refused.
	CaptureNone = "none"
)
