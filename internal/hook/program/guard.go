// The program guard: nothing that came past connect4 leaves the node for the metadata service.
//
// Raw and packet sockets and foreign data planes send packets without a connect. Their packets
// still carry the pod's socket, or none if they were forwarded. What another data plane's program
// forwards also carries a socket, which need not be in the pods' group: that of a virtual machine
// with a pod in it is in its runtime's.

package program

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in the kernel's struct __sk_buff (linux/bpf.h), the IPv4 header (RFC 791) and the TCP
// header.
const (
	skbIngress = 36
	skbSocket  = 168

	ip4Size        = 20
	ip4Fragment    = 6
	ip4Protocol    = 9
	ip4Destination = 16
	fragmentOffset = 0x1fff // not 0 for all fragments but the first
	portsSize      = 4
	portsTo        = 2
)

// An Ethernet header ends with the type of what follows. A VLAN tag is a type of its own and two
// bytes, before the type.
const (
	typeSize = 2
	tagSize  = 4
	maxTags  = 2 // 802.1ad puts a second one before that of 802.1Q
)

// Verdicts of a program at tc (linux/pkt_cls.h); the first also asks the next program of tcx.
const (
	verdictNext = -1
	verdictDrop = 2
)

// maxDepth bounds the depth of the pods' group. A program cannot know it in a control group
// namespace, so it tries all. Only packets to the metadata service are concerned.
const maxDepth = 12

// The stack of guard. The counter's key is at scratch. The type lies right before the IPv4 header.
const (
	portsSlot  = -24
	socketSlot = -24 // a socket's cookie, once the ports are compared
	ipSlot     = -48
	typeSlot   = ipSlot - typeSize
)

// The registers of guard that keep their values across calls.
const (
	packet  = asm.R6 // the struct __sk_buff
	ipAt    = asm.R7 // the offset of the IPv4 header
	group   = asm.R8
	address = asm.R9 // the destination
)

// guardSpec returns the program for links whose packets have a link-layer header of that size.
func guardSpec(c Config, header int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: "podid_" + guard, Type: ebpf.SchedCLS, License: "MIT",
		Instructions: guardInstructions(c, header),
	}
}

func guardInstructions(c Config, header int32) asm.Instructions {
	code := asm.Instructions{asm.Mov.Reg(packet, asm.R1)}
	if header == etherHeader {
		code = append(code, loadEthernet()...)
	} else {
		code = append(code, loadBare()...)
	}
	return slices.Concat(code, toService(c), fromPod(c), unmarked(), asm.Instructions{
		asm.Mov.Imm(asm.R0, verdictDrop).WithSymbol("dropped"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, verdictNext).WithSymbol("next"),
		asm.Return(),
	})
}

// loadEthernet copies the IPv4 header of an Ethernet frame to the stack, or goes to "next". The
// frame alone decides what it holds: the sender of a packet socket sets skb->protocol freely. A tag
// that the network card is to add (skb->vlan_present) is not in the frame.
func loadEthernet() asm.Instructions {
	const typeAt = etherHeader - typeSize
	code := asm.Instructions{asm.Mov.Imm(ipAt, etherHeader), asm.Mov.Imm(asm.R2, typeAt)}
	for tags := 0; ; tags++ {
		code = append(code, load(typeSlot, typeSize+ip4Size, "next")...)
		code = append(code,
			asm.LoadMem(asm.R2, asm.RFP, typeSlot, asm.Half),
			asm.JEq.Imm32(asm.R2, wire2(unix.ETH_P_IP), "ip"),
		)
		if tags == maxTags {
			return append(code, asm.Ja.Label("next"))
		}
		tagged := fmt.Sprintf("tag %d", tags+1)
		code = append(code,
			asm.JEq.Imm32(asm.R2, wire2(unix.ETH_P_8021Q), tagged),
			asm.JNE.Imm32(asm.R2, wire2(unix.ETH_P_8021AD), "next"),
			asm.Add.Imm(ipAt, tagSize).WithSymbol(tagged),
			asm.Mov.Reg(asm.R2, ipAt), asm.Sub.Imm(asm.R2, typeSize),
		)
	}
}

// loadBare copies the IPv4 header of a packet without a link-layer header to the stack, or goes to
// "next".
func loadBare() asm.Instructions {
	const version, ip4 = 0xf0, 0x40
	code := append(asm.Instructions{asm.Mov.Imm(ipAt, 0), asm.Mov.Imm(asm.R2, 0)}, load(ipSlot, ip4Size, "next")...)
	return append(code,
		asm.LoadMem(asm.R2, asm.RFP, ipSlot, asm.Byte),
		asm.And.Imm(asm.R2, version),
		asm.JNE.Imm32(asm.R2, ip4, "next"),
	)
}

// toService goes to "judge" for packets to the metadata service and to closed services, and to
// "next" for all others.
func toService(c Config) asm.Instructions {
	code := asm.Instructions{
		asm.LoadMem(asm.R2, asm.RFP, ipSlot+ip4Protocol, asm.Byte).WithSymbol("ip"),
		asm.JNE.Imm32(asm.R2, unix.IPPROTO_TCP, "next"),
		asm.LoadMem(address, asm.RFP, ipSlot+ip4Destination, asm.Word),
		asm.JEq.Imm32(address, wire4(c.Metadata.Addr()), "service"),
	}
	for _, closed := range c.Closed {
		code = append(code, asm.JEq.Imm32(address, wire4(closed.Addr()), "service"))
	}
	code = append(code, asm.Ja.Label("next"))

	// A later fragment has no port, and the service would put it together with the first.
	code = append(code,
		asm.LoadMem(asm.R2, asm.RFP, ipSlot+ip4Fragment, asm.Half).WithSymbol("service"),
		asm.And.Imm(asm.R2, int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, fragmentOffset)))),
		asm.JNE.Imm32(asm.R2, 0, "judge"),
		asm.LoadMem(asm.R2, asm.RFP, ipSlot, asm.Byte),
		asm.And.Imm(asm.R2, 0xf), // the header's length in words
		asm.LSh.Imm(asm.R2, 2),
		asm.Add.Reg(asm.R2, ipAt),
	)
	code = append(code, load(portsSlot, portsSize, "judge")...)
	code = append(code, asm.LoadMem(asm.R4, asm.RFP, portsSlot+portsTo, asm.Half))
	code = append(code, destination(asm.R3, address, asm.R4)...)
	for _, to := range append([]netip.AddrPort{c.Metadata}, c.Closed...) {
		code = append(code, asm.LoadImm(asm.R2, destinationOf(to), asm.DWord), asm.JEq.Reg(asm.R3, asm.R2, "judge"))
	}
	return append(code, asm.Ja.Label("next"))
}

// fromPod goes to "next" for a packet of a socket outside of the pods' group, if that is known, to
// "drop" for one that has come in by another interface, and to "pod" for all others.
func fromPod(c Config) asm.Instructions {
	code := asm.Instructions{
		asm.LoadMem(asm.R2, packet, skbIngress, asm.Word).WithSymbol("judge"),
		asm.JNE.Imm32(asm.R2, 0, "drop"),
	}
	if c.Pods == 0 {
		return code
	}
	code = append(code,
		asm.Mov.Reg(asm.R1, packet),
		asm.FnSkbCgroupId.Call(),
		asm.JEq.Imm(asm.R0, 0, "pod"),
		asm.LoadImm(group, int64(c.Pods), asm.DWord), //nolint:gosec // the bits are meant
	)
	for l := range int32(maxDepth) {
		code = append(code,
			asm.Mov.Reg(asm.R1, packet),
			asm.Mov.Imm(asm.R2, l+1),
			asm.FnSkbAncestorCgroupId.Call(),
			asm.JEq.Reg(asm.R0, group, "pod"),
		)
	}
	return append(code, asm.Ja.Label("next"))
}

// unmarked goes to "next" for a packet of a socket that connect4 let pass, or that was connected
// before there was a guard, and to "dropped" for all others, which it counts.
func unmarked() asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMem(asm.R1, packet, skbSocket, asm.DWord).WithSymbol("pod"),
		asm.JEq.Imm(asm.R1, 0, "drop"),
		asm.FnSkFullsock.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.LoadMapPtr(asm.R1, 0).WithReference(passedMap),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
		asm.Mov.Reg(asm.R1, packet),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.RFP, socketSlot, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, 0).WithReference(earlierMap),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, socketSlot),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("drop"),
	}, count(Dropped, "dropped")...)
}

// load copies a part of the packet at the offset in R2 to the stack, or goes to the label if the
// packet is too short.
func load(slot, size int32, short string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, packet),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, slot),
		asm.Mov.Imm(asm.R4, size),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, short),
	}
}
