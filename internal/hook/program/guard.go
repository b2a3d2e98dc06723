// The program guard: nothing that came past connect4 leaves the node for the metadata service.
//
// Raw and packet sockets and foreign data planes send packets without a connect. Their packets
// still carry the pod's socket, or none if they were forwarded.

package program

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in the kernel's struct __sk_buff (linux/bpf.h), the IPv4 header (RFC 791) and the TCP
// header.
const (
	skbProtocol = 16
	skbSocket   = 168

	ip4Size        = 20
	ip4Fragment    = 6
	ip4Protocol    = 9
	ip4Destination = 16
	fragmentOffset = 0x1fff // not 0 for all fragments but the first
	portsSize      = 4
	portsTo        = 2
)

// Verdicts of a program at tc (linux/pkt_cls.h); the first also asks the next program of tcx.
const (
	verdictNext = -1
	verdictDrop = 2
)

// maxDepth bounds the depth of the pods' group. A program cannot know it in a control group
// namespace, so it tries all. Only packets to the metadata service are concerned.
const maxDepth = 12

// The stack of guard. The counter's key is at scratch.
const (
	portsSlot = -24
	ipSlot    = -48
)

// guardSpec returns the program for links whose packets have a link-layer header of that size.
func guardSpec(c Config, header int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: "podid_" + guard, Type: ebpf.SchedCLS, License: "MIT",
		Instructions: guardInstructions(c, header),
	}
}

func guardInstructions(c Config, header int32) asm.Instructions {
	const packet, address, group = asm.R6, asm.R9, asm.R8
	code := asm.Instructions{
		asm.Mov.Reg(packet, asm.R1),
		asm.LoadMem(asm.R2, packet, skbProtocol, asm.Word),
		asm.JNE.Imm32(asm.R2, wire2(unix.ETH_P_IP), "next"),
		asm.Mov.Imm(asm.R2, header),
	}
	// By a copy, because headers may be outside of the packet's linear part.
	code = append(code, load(packet, ipSlot, ip4Size, "next")...)
	code = append(code,
		asm.LoadMem(asm.R2, asm.RFP, ipSlot+ip4Protocol, asm.Byte),
		asm.JNE.Imm32(asm.R2, unix.IPPROTO_TCP, "next"),
		asm.LoadMem(address, asm.RFP, ipSlot+ip4Destination, asm.Word),
		asm.JEq.Imm32(address, wire4(c.Metadata.Addr()), "service"),
	)
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
		asm.Add.Imm(asm.R2, header),
	)
	code = append(code, load(packet, portsSlot, portsSize, "judge")...)
	code = append(code, asm.LoadMem(asm.R4, asm.RFP, portsSlot+portsTo, asm.Half))
	code = append(code, destination(asm.R3, address, asm.R4)...)
	code = append(code, asm.LoadImm(asm.R2, destinationOf(c.Metadata), asm.DWord), asm.JEq.Reg(asm.R3, asm.R2, "judge"))
	for _, closed := range c.Closed {
		code = append(code, asm.LoadImm(asm.R2, destinationOf(closed), asm.DWord), asm.JEq.Reg(asm.R3, asm.R2, "judge"))
	}
	code = append(code, asm.Ja.Label("next"))

	// From a socket outside of the pods' group: next.
	code = append(code,
		asm.Mov.Reg(asm.R1, packet).WithSymbol("judge"),
		asm.FnSkbCgroupId.Call(),
		asm.JEq.Imm(asm.R0, 0, "marked"),
		asm.LoadImm(group, int64(c.Pods), asm.DWord), //nolint:gosec // the bits are meant
	)
	for l := range int32(maxDepth) {
		code = append(code,
			asm.Mov.Reg(asm.R1, packet),
			asm.Mov.Imm(asm.R2, l+1),
			asm.FnSkbAncestorCgroupId.Call(),
			asm.JEq.Reg(asm.R0, group, "marked"),
		)
	}
	code = append(code, asm.Ja.Label("next"))

	// A socket that connect4 let pass: next.
	code = append(code,
		asm.LoadMem(asm.R1, packet, skbSocket, asm.DWord).WithSymbol("marked"),
		asm.JEq.Imm(asm.R1, 0, "drop"),
		asm.FnSkFullsock.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.LoadMapPtr(asm.R1, 0).WithReference(passedMap),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("drop"),
	)
	code = append(code, count(Dropped, "dropped")...)
	return append(code,
		asm.Mov.Imm(asm.R0, verdictDrop).WithSymbol("dropped"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, verdictNext).WithSymbol("next"),
		asm.Return(),
	)
}

// load copies a part of the packet at the offset in R2 to the stack, or goes to the label if the
// packet is too short.
func load(packet asm.Register, slot, size int32, short string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, packet),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, slot),
		asm.Mov.Imm(asm.R4, size),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, short),
	}
}
