// Package cgroup detects the machine's control group layout (v1, hybrid, v2) and gives each node
// its own control groups in it. The machine's mounts and own groups stay unchanged; only folders
// below them are added.
package cgroup
