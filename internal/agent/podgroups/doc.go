// Package podgroups knows which pod a control group belongs to.
//
// The kubelet names a control group after each pod's UID, and the container runtime makes the
// containers' groups in it. Index watches both. A pod may make more groups below its containers';
// those are looked for when they are asked for.
//
// An ID of a control group is the inode of its folder. The kernel does not use an ID twice, and
// groups of version 2 cannot be renamed or moved, so an answer stays right.
package podgroups
