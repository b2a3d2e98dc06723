// Package assignment compares what should be with what is, and says what to do
// about it. Two plans, both pure:
//
//   - ForPod: a pod's grants against its AzureAssignedIdentity objects -> which
//     objects to create, update and delete;
//   - ForGroup: the identities that the pods of a node group need against those
//     that Azure says it has -> which to attach and detach.
//
// Nothing here holds a client, a clock or a log. Carrying a plan out and planning
// again gives an empty plan; that is what the properties in the tests check.
package assignment
