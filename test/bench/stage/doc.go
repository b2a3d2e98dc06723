// Package stage is the environment of the programs' benchmarks: a network namespace without
// external connections, the programs in it, an API server with its etcd, and the emulated Azure.
package stage
