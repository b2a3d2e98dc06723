// The start-up taint.

package v1

// AgentNotReadyTaint is the key of a taint (effect NoSchedule) that a node can join the cluster
// with. It keeps pods away until the node's agent runs. NMI removes it when it is ready. MIC can be
// configured to add it when the agent is missing or unhealthy. New in podid.
const AgentNotReadyTaint = "aadpodidentity.k8s.io/agent-not-ready"
