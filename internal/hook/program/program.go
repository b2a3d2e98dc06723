// Package program holds podid's BPF programs: what they do, how they are put in place, and how they
// are removed.
//
//	connect4, connect6   on the pods' control group: what a pod connects to the metadata service
//	                     arrives at the listener in the pod's own network namespace, or is refused.
//	                     Of the pods on the node's network, this applies to those that are captured
//	guard                at the egress of the node's uplinks: nothing that came past connect4 leaves
//
// An nftables table for each uplink stops what comes past tc, and so past the guard.
//
// The programs are written with cilium/ebpf's assembler, so no compiler and no binary object is
// involved. Links and maps are pinned in a folder of a BPF file system: they survive the process,
// and its successor replaces them without a gap.
package program

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Config is what the programs are built from.
type Config struct {
	// Metadata is the metadata service's address and port.
	Metadata netip.AddrPort
	// Closed are services that pods never reach, such as Azure's WireServer.
	Closed []netip.AddrPort
	// Node is the cookie of the node's own network namespace (SO_NETNS_COOKIE, Linux 5.14). What
	// connects there is let pass, unless it is a pod that is captured (Hook.Capture).
	Node uint64
	// PassAbsent lets connects to the metadata service's port pass where the network namespace has no
	// listener: something else, such as the redirect, answers or refuses them. Otherwise they are
	// refused, as those to its other ports are.
	PassAbsent bool
	// Pods is the ID of the pods' control group, the inode of its folder. If it is 0, every socket of
	// the node may be a pod's: the guard then lets pass what connect4 let pass, and nothing else.
	Pods uint64
}

// Count is an event that the programs count.
type Count uint32

// The events.
const (
	Diverted Count = iota // a connect arrives at the listener in its namespace
	Refused               // a connect is refused: no listener, or another port
	Passed                // a connect in the node's own namespace is let pass
	Dropped               // a packet past connect4 is dropped by the guard, not by nftables
	counts
)

// The names of the maps, of their pins, and of the programs' links.
const (
	endpointsMap = "endpoints"
	hostPodsMap  = "host_pods"
	passedMap    = "passed"
	earlierMap   = "earlier"
	countsMap    = "counts"
	connect4     = "connect4"
	connect6     = "connect6"
	guard        = "guard"
)

// maxEndpoints is well above the 250 pods that Azure allows on a node, and their nested namespaces.
const maxEndpoints = 8192

// maxHostPods is more than the pods that a node can have.
const maxHostPods = 1024

// maps returns the maps that the programs share.
func maps() map[string]*ebpf.MapSpec {
	return map[string]*ebpf.MapSpec{
		// Cookie of a network namespace to the listener in it.
		endpointsMap: {
			Name: endpointsMap, Type: ebpf.Hash, KeySize: 8, ValueSize: endpointSize, MaxEntries: maxEndpoints,
			Pinning: ebpf.PinByName,
		},
		// Control groups of the pods on the node's network whose connects are captured.
		hostPodsMap: {
			Name: hostPodsMap, Type: ebpf.Hash, KeySize: 8, ValueSize: 1, MaxEntries: maxHostPods,
			Pinning: ebpf.PinByName,
		},
		// Sockets that connect4 let pass in the node's namespace, for the guard.
		passedMap: {
			Name: passedMap, Type: ebpf.SkStorage, KeySize: 4, ValueSize: 1, Flags: unix.BPF_F_NO_PREALLOC,
			Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Value: &btf.Int{Name: "unsigned char", Size: 1},
			Pinning: ebpf.PinByName,
		},
		// Cookies of sockets that were connected before there was a guard.
		earlierMap: {
			Name: earlierMap, Type: ebpf.Hash, KeySize: 8, ValueSize: 1, MaxEntries: maxEarlier,
			Pinning: ebpf.PinByName,
		},
		countsMap: {
			Name: countsMap, Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: uint32(counts),
			Pinning: ebpf.PinByName,
		},
	}
}

// endpointSize is the size of an endpoint: address and port as on the wire, and two bytes unused.
const endpointSize = 8

func endpoint(at netip.AddrPort) [endpointSize]byte {
	var e [endpointSize]byte
	ip := at.Addr().As4()
	copy(e[:], ip[:])
	binary.BigEndian.PutUint16(e[4:], at.Port())
	return e
}

// wire4 and wire2 return an address and a port as a program reads them from the network.
func wire4(a netip.Addr) int32 {
	ip := a.As4()
	return int32(binary.NativeEndian.Uint32(ip[:])) //nolint:gosec // the bits are meant
}

func wire2(port uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port)))
}
