// Package hostrouting is a data plane that forwards packets of pods past the node's netfilter, as
// networks with eBPF host routing do. The sandbox and kernel tests use it. The product does not.
package hostrouting

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config selects the packets that are forwarded past netfilter. All others go to the node's own
// network.
type Config struct {
	// Uplink is the index of the interface that the packets leave by. Only packets that the node
	// would route there are forwarded.
	Uplink int
	// Except are destinations that need netfilter, such as the addresses of services.
	Except []netip.Prefix
	// Tags are protocols of VLAN tags that the packets get, the inner one first. Then they keep their
	// link-layer addresses.
	Tags []uint16
}

// Load loads the program. It belongs on the node's end of a pod's link.
func Load(c Config) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "host_routing", Type: ebpf.SchedCLS, License: "Dual MIT/GPL", Instructions: instructions(c),
	})
	if err != nil {
		return nil, fmt.Errorf("load the program of eBPF host routing: %w", err)
	}
	return p, nil
}

// Attach has the program decide about all packets that arrive at an interface of the calling
// thread's network namespace. It stays as long as the interface does.
func Attach(index int, program *ebpf.Program) error {
	qdisc := netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: qdisc, QdiscType: "clsact"})
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add qdisc clsact to interface %d: %w", index, err)
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Handle: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "host_routing", DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("attach eBPF host routing to interface %d: %w", index, err)
	}
	return nil
}

// accept is the verdict of tc (linux/pkt_cls.h) that hands a packet to the node's own network.
const accept = 0

// Offsets in the kernel's struct __sk_buff (linux/bpf.h), and in a frame with an IPv4 header.
const (
	skbProtocol = 16
	skbIndex    = 40
	frameSource = 14 + 12
	frameTarget = 14 + 16
)

// The stack holds a struct bpf_fib_lookup (linux/bpf.h).
const (
	fibSize   = 64
	fib       = -fibSize
	fibFamily = fib
	fibIndex  = fib + 8
	fibSource = fib + 16
	fibTarget = fib + 32
)

// noNeighbor is the result of bpf_fib_lookup for a route whose next hop has no known link-layer
// address. The kernel asks for it when the packet is sent.
const noNeighbor = 7

// instructions returns the program. It asks the node's routes, so that packets to the node and to
// its own pods are left alone.
func instructions(c Config) asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, skbProtocol, asm.Word),
		asm.JNE.Imm32(asm.R2, int32(binary.NativeEndian.Uint16([]byte{0x08, 0x00})), "accept"), // not IPv4
	}
	for offset := int16(fib); offset < 0; offset += 4 {
		code = append(code, asm.StoreImm(asm.RFP, offset, 0, asm.Word))
	}
	code = slices.Concat(code, load(frameSource, fibSource), load(frameTarget, fibTarget))
	for _, p := range c.Except {
		code = append(code,
			asm.LoadMem(asm.R2, asm.RFP, fibTarget, asm.Word),
			asm.And.Imm32(asm.R2, word(net.CIDRMask(p.Bits(), 32))),
			asm.JEq.Imm32(asm.R2, word(p.Masked().Addr().AsSlice()), "accept"),
		)
	}
	code = append(code,
		asm.StoreImm(asm.RFP, fibFamily, unix.AF_INET, asm.Byte),
		asm.LoadMem(asm.R2, asm.R6, skbIndex, asm.Word),
		asm.StoreMem(asm.RFP, fibIndex, asm.R2, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, fib),
		asm.Mov.Imm(asm.R3, fibSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnFibLookup.Call(),
		asm.JEq.Imm(asm.R0, 0, "routed"),
		asm.JNE.Imm(asm.R0, noNeighbor, "accept"),
		asm.LoadMem(asm.R2, asm.RFP, fibIndex, asm.Word).WithSymbol("routed"),
		asm.JNE.Imm(asm.R2, int32(c.Uplink), "accept"), //nolint:gosec // an interface index fits
	)
	return append(slices.Concat(code, send(c)),
		asm.Mov.Imm(asm.R0, accept).WithSymbol("accept"),
		asm.Return(),
	)
}

// load copies an address of the packet to the stack, or accepts the packet if it is too short.
func load(from, to int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, from),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to),
		asm.Mov.Imm(asm.R4, net.IPv4len),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "accept"),
	}
}

// send hands the packet to the uplink.
func send(c Config) (code asm.Instructions) {
	for _, tag := range c.Tags {
		const vlan = 5
		code = append(code,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, tag)))),
			asm.Mov.Imm(asm.R3, vlan),
			asm.FnSkbVlanPush.Call())
	}
	redirect := asm.FnRedirectNeigh
	if len(c.Tags) > 0 {
		redirect = asm.FnRedirect
	}
	return append(code,
		asm.Mov.Imm(asm.R1, int32(c.Uplink)), //nolint:gosec // an interface index fits
		asm.Mov.Imm(asm.R2, 0), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, 0),
		redirect.Call(),
		asm.Return(),
	)
}

// word returns four bytes as a program that loads them sees them.
func word(b []byte) int32 { return int32(binary.NativeEndian.Uint32(b)) } //nolint:gosec // the bits are meant
