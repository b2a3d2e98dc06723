package v1

// AgentNotReadyTaint is the key of a taint (effect NoSchedule) that a node can
// join the cluster with, and that keeps pods away until its agent runs. NMI takes
// it off when it is ready; MIC, when asked to, puts it on where the agent is gone
// or ill. New in podid.
const AgentNotReadyTaint = "aadpodidentity.k8s.io/agent-not-ready"
