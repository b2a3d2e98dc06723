// Package measure is what the benchmarks share: figures and their output, the properties of the
// machine, and the kernel's figures about processes.
package measure
