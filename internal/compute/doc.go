// Package compute reads and patches the identities of a node group through Azure Resource Manager
// (ARM). A node group is one virtual machine, or one uniform scale set with all its instances.
//
// vm.go and vmss.go hold the two kinds. client.go holds what they share: one GET, one PATCH with
// merge semantics, and its long-running operation. errors.go classifies ARM's errors for callers,
// and remedy.go for operators. limits.go tracks Azure's limits, and throttle.go delays calls
// accordingly. The fake in computetest passes the same test as Client.
package compute
