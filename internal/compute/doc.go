// Package compute is the seam to Azure's compute resources: it reads and patches the identities of
// a node group, that is one virtual machine or one uniform scale set with all its instances,
// through Azure Resource Manager (ARM).
//
// vm.go and vmss.go hold the two kinds side by side; client.go what they share: one GET, one PATCH
// with merge semantics, and the long-running operation behind it. errors.go sorts what ARM says
// into what a caller can do about it, remedy.go says what a person can do. limits.go counts against
// Azure's limits, throttle.go delays calls by them. The fake in computetest passes the same test as
// Client.
package compute
