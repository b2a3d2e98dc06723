// Package process identifies and ends the sandbox's processes. A process is identified by its ID
// and its start time, because the kernel reuses IDs.
package process
