// The programs connect4 and connect6: where a pod's connect to the metadata service arrives.

package program

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in the kernel's struct bpf_sock_addr (linux/bpf.h), and of the bound device in bpf_sock.
const (
	addrIP4      = 4
	addrIP6      = 8
	addrPort     = 24
	addrType     = 32
	addrSocket   = 64
	socketDevice = 0
)

// refusedAt is where no program can listen: a client that connects there gets "connection refused".
// The programs could return an error themselves, but only EPERM, which clients do not retry
// (bpf_set_retval needs Linux 5.18).
var refusedAt = netip.MustParseAddrPort("127.0.0.1:0") //nolint:gochecknoglobals // a constant

// The stack of connect4 and connect6.
const (
	cookieSlot = -8  // the namespace's cookie
	scratch    = -16 // the key of a counter, or the empty name of a device
	groupSlot  = -24 // the ID of a control group
)

// connectSpec returns the program of an attach type.
func connectSpec(at ebpf.AttachType, c Config) *ebpf.ProgramSpec {
	name := connect4
	if at == ebpf.AttachCGroupInet6Connect {
		name = connect6
	}
	return &ebpf.ProgramSpec{
		Name: "podid_" + name, Type: ebpf.CGroupSockAddr, AttachType: at, License: "MIT",
		Instructions: connectInstructions(at, c),
	}
}

// The registers of connect4 and connect6 that keep their values across calls.
const (
	call   = asm.R6 // the struct bpf_sock_addr
	found  = asm.R7 // the listener of the namespace
	toIP   = asm.R8
	toPort = asm.R9
)

func connectInstructions(at ebpf.AttachType, c Config) asm.Instructions {
	ip := int16(addrIP4)
	if at == ebpf.AttachCGroupInet6Connect {
		ip = addrIP6 + 12
	}
	return slices.Concat(
		asm.Instructions{asm.Mov.Reg(call, asm.R1)},
		match(at, ip, c), lookUp(c), closed(c), refuse(ip), node(c), passNode(), divert(ip),
		asm.Instructions{asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return()},
		deny(),
	)
}

// match goes to "metadata" for the metadata service's address, to "closed" for a closed service,
// and to "pass" for all else.
func match(at ebpf.AttachType, ip int16, c Config) (code asm.Instructions) {
	if at == ebpf.AttachCGroupInet6Connect { // only ::ffff:a.b.c.d, which is IPv4
		for word, want := range []int32{0, 0, int32(binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff}))} { //nolint:gosec // the bits are meant
			code = append(code,
				asm.LoadMem(asm.R2, call, addrIP6+4*int16(word), asm.Word),
				asm.JNE.Imm32(asm.R2, want, "pass"))
		}
	}
	code = append(code,
		asm.LoadMem(asm.R2, call, addrType, asm.Word),
		asm.JNE.Imm32(asm.R2, unix.SOCK_STREAM, "pass"),
		asm.LoadMem(toIP, call, ip, asm.Word),
		asm.LoadMem(toPort, call, addrPort, asm.Word),
		asm.JEq.Imm32(toIP, wire4(c.Metadata.Addr()), "metadata"),
	)
	code = append(code, destination(asm.R3, toIP, toPort)...)
	for _, closed := range c.Closed {
		code = append(code, asm.LoadImm(asm.R2, destinationOf(closed), asm.DWord), asm.JEq.Reg(asm.R3, asm.R2, "closed"))
	}
	return append(code, asm.Ja.Label("pass"))
}

// lookUp goes to "divert" if there is a listener in the caller's network namespace, and to "node"
// in the node's own. Otherwise it refuses the connect, or lets it pass. It always refuses other
// ports of the metadata service, as the redirect does: data planes may route past that.
func lookUp(c Config) asm.Instructions {
	absent := "refused"
	if c.PassAbsent {
		absent = "pass"
	}
	return slices.Concat(
		namespace("metadata", c),
		asm.Instructions{asm.JNE.Imm32(toPort, wire2(c.Metadata.Port()), "refused")},
		endpointOf(),
		asm.Instructions{asm.JNE.Imm(asm.R0, 0, "divert"), asm.Ja.Label(absent)},
	)
}

// closed goes to "node" in the node's own network namespace, and otherwise refuses the connect. The
// verifier accepts no code that cannot be reached.
func closed(c Config) asm.Instructions {
	if len(c.Closed) == 0 {
		return nil
	}
	return append(namespace("closed", c), asm.Ja.Label("refused"))
}

// namespace stores the cookie of the caller's network namespace, and goes to "node" if it is the
// node's own.
func namespace(symbol string, c Config) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, call).WithSymbol(symbol),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.RFP, cookieSlot, asm.R0, asm.DWord),
		asm.LoadImm(asm.R2, int64(c.Node), asm.DWord), //nolint:gosec // the bits are meant
		asm.JEq.Reg(asm.R0, asm.R2, "node"),
	}
}

// endpointOf looks up the listener in the namespace whose cookie is stored. R0 is 0 for none.
func endpointOf() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, 0).WithReference(endpointsMap),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, cookieSlot),
		asm.FnMapLookupElem.Call(),
	}
}

// refuse lets the connect arrive where no program can listen.
func refuse(ip int16) asm.Instructions {
	code := unbind("refuse")
	code[0] = code[0].WithSymbol("refused")
	return slices.Concat(
		code,
		asm.Instructions{
			asm.LoadImm(asm.R1, int64(wire4(refusedAt.Addr())), asm.DWord).WithSymbol("refuse"),
			asm.StoreMem(call, ip, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R1, wire2(refusedAt.Port())),
			asm.StoreMem(call, addrPort, asm.R1, asm.Word),
		},
		count(Refused, "pass"), asm.Instructions{asm.Ja.Label("pass")},
	)
}

// node goes to "mark" unless the caller is a pod on the node's network that is captured. Such a pod
// has the listener in the node's namespace, or is refused.
func node(c Config) asm.Instructions {
	var code asm.Instructions
	for level := int32(1); level <= maxDepth+belowPods; level++ {
		code = append(code,
			asm.Mov.Imm(asm.R1, level),
			asm.FnGetCurrentAncestorCgroupId.Call(),
			asm.JEq.Imm(asm.R0, 0, "mark"), // deeper than the caller's group
			asm.StoreMem(asm.RFP, groupSlot, asm.R0, asm.DWord),
			asm.LoadMapPtr(asm.R1, 0).WithReference(hostPodsMap),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, groupSlot),
			asm.FnMapLookupElem.Call(),
			asm.JNE.Imm(asm.R0, 0, "captured"),
		)
	}
	code[0] = code[0].WithSymbol("node")
	code = append(code,
		asm.Ja.Label("mark"),
		asm.JNE.Imm32(toIP, wire4(c.Metadata.Addr()), "refused").WithSymbol("captured"),
		asm.JNE.Imm32(toPort, wire2(c.Metadata.Port()), "refused"),
	)
	return slices.Concat(code, endpointOf(), asm.Instructions{
		asm.JNE.Imm(asm.R0, 0, "divert"),
		asm.Ja.Label("refused"),
	})
}

// belowPods is how deep below the pods' group a pod's own is: in that of its class of service.
const belowPods = 2

// passNode marks the socket for the guard and lets it pass.
func passNode() asm.Instructions {
	return slices.Concat(
		asm.Instructions{
			asm.LoadMem(asm.R2, call, addrSocket, asm.DWord).WithSymbol("mark"),
			asm.JEq.Imm(asm.R2, 0, "pass"),
			asm.LoadMapPtr(asm.R1, 0).WithReference(passedMap),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, unix.BPF_SK_STORAGE_GET_F_CREATE),
			asm.FnSkStorageGet.Call(),
		},
		count(Passed, "pass"), asm.Instructions{asm.Ja.Label("pass")},
	)
}

// divert lets the connect arrive at the listener that was found.
func divert(ip int16) asm.Instructions {
	return slices.Concat(
		asm.Instructions{asm.Mov.Reg(found, asm.R0).WithSymbol("divert")},
		unbind("write"),
		asm.Instructions{
			asm.LoadMem(asm.R1, found, 0, asm.Word).WithSymbol("write"),
			asm.LoadMem(asm.R2, found, 4, asm.Half),
			asm.StoreMem(call, ip, asm.R1, asm.Word),
			asm.StoreMem(call, addrPort, asm.R2, asm.Word),
		},
		count(Diverted, "pass"),
	)
}

// deny lets the connect fail with EPERM.
func deny() asm.Instructions {
	return slices.Concat(
		asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("deny")},
		count(Refused, "denied"),
		asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("denied"), asm.Return()},
	)
}

// unbind undoes SO_BINDTODEVICE, which closes the way over lo, and goes to the label, which must
// follow. Every program may bind its socket, but only one with NET_RAW may undo it: without, unbind
// goes to "deny", since the connect would only time out. It uses R0 to R5.
func unbind(done string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, call, addrSocket, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, done),
		asm.LoadMem(asm.R1, asm.R1, socketDevice, asm.Word),
		asm.JEq.Imm(asm.R1, 0, done),
		asm.StoreImm(asm.RFP, scratch, 0, asm.Word),
		asm.Mov.Reg(asm.R1, call),
		asm.Mov.Imm(asm.R2, unix.SOL_SOCKET),
		asm.Mov.Imm(asm.R3, unix.SO_BINDTODEVICE),
		asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, scratch),
		asm.Mov.Imm(asm.R5, 4),
		asm.FnSetsockopt.Call(),
		asm.JNE.Imm(asm.R0, 0, "deny"),
	}
}

// count adds one to a counter and goes on, or to the label if that fails. It uses R0 to R5.
func count(what Count, failed string) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, scratch, int64(what), asm.Word),
		asm.LoadMapPtr(asm.R1, 0).WithReference(countsMap),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, scratch),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, failed),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord), // a counter of this CPU
	}
}

// destination joins an address and a port in one register, so that both are compared at once.
func destination(to, address, port asm.Register) asm.Instructions {
	return asm.Instructions{asm.Mov.Reg(to, address), asm.LSh.Imm(to, 16), asm.Or.Reg(to, port)}
}

// destinationOf is the value that destination computes.
func destinationOf(a netip.AddrPort) int64 {
	return int64(uint32(wire4(a.Addr())))<<16 | int64(wire2(a.Port())) //nolint:gosec // the bits are meant
}
