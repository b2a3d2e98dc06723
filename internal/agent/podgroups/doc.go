// Package podgroups knows which pod a control group belongs to.
//
// The kubelet names a control group after each pod's UID, and the container runtime makes the
// containers' groups below it. An ID of a control group is the inode of its folder.
package podgroups
