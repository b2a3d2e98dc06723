// Package world holds the state of the emulated Azure: its tenants, identities, applications and
// machines, the running operations, the faults to inject and the request log.
//
// The surfaces (arm, entra, imds) hold no state of their own. They read views of the world, which
// are copies, and change it through its methods, which are safe for concurrent use.
package world
