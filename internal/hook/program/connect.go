// The programs connect4 and connect6: where a pod's connect to the metadata service arrives.

package program

import (
	"encoding/binary"
	"net/netip"

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

func connectInstructions(at ebpf.AttachType, c Config) asm.Instructions {
	const context, address, port, found = asm.R6, asm.R8, asm.R9, asm.R7
	code := asm.Instructions{asm.Mov.Reg(context, asm.R1)}
	ip := int16(addrIP4)
	if at == ebpf.AttachCGroupInet6Connect { // only ::ffff:a.b.c.d, which is IPv4
		ip = addrIP6 + 12
		for word, want := range []int32{0, 0, int32(binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff}))} { //nolint:gosec // the bits are meant
			code = append(code,
				asm.LoadMem(asm.R2, context, addrIP6+4*int16(word), asm.Word),
				asm.JNE.Imm32(asm.R2, want, "pass"))
		}
	}
	code = append(code,
		asm.LoadMem(asm.R2, context, addrType, asm.Word),
		asm.JNE.Imm32(asm.R2, unix.SOCK_STREAM, "pass"),
		asm.LoadMem(address, context, ip, asm.Word),
		asm.LoadMem(port, context, addrPort, asm.Word),
		asm.JEq.Imm32(address, wire4(c.Metadata.Addr()), "metadata"),
	)
	code = append(code, destination(asm.R3, address, port)...)
	for _, closed := range c.Closed {
		code = append(code, asm.LoadImm(asm.R2, destinationOf(closed), asm.DWord), asm.JEq.Reg(asm.R3, asm.R2, "closed"))
	}
	code = append(code, asm.Ja.Label("pass"))

	// The metadata service: the listener in the caller's network namespace.
	code = append(code,
		asm.Mov.Reg(asm.R1, context).WithSymbol("metadata"),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.RFP, cookieSlot, asm.R0, asm.DWord),
		asm.JNE.Imm32(port, wire2(c.Metadata.Port()), "absent"),
		asm.LoadMapPtr(asm.R1, 0).WithReference(endpointsMap),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, cookieSlot),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "divert"),
		asm.Ja.Label("absent"),
	)
	// Closed, or no listener: the node passes, everybody else is refused.
	if len(c.Closed) > 0 { // the verifier refuses what cannot be reached
		code = append(code,
			asm.Mov.Reg(asm.R1, context).WithSymbol("closed"),
			asm.FnGetNetnsCookie.Call(),
			asm.StoreMem(asm.RFP, cookieSlot, asm.R0, asm.DWord),
		)
	}
	code = append(code,
		asm.LoadMem(asm.R1, asm.RFP, cookieSlot, asm.DWord).WithSymbol("absent"),
		asm.LoadImm(asm.R2, int64(c.Node), asm.DWord), //nolint:gosec // the bits are meant
		asm.JEq.Reg(asm.R1, asm.R2, "node"),
	)
	code = append(code, unbind(context, "refuse")...)
	code = append(code,
		asm.LoadImm(asm.R1, int64(wire4(refusedAt.Addr())), asm.DWord).WithSymbol("refuse"),
		asm.StoreMem(context, ip, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, wire2(refusedAt.Port())),
		asm.StoreMem(context, addrPort, asm.R1, asm.Word),
	)
	code = append(code, count(Refused, "pass")...)
	code = append(code, asm.Ja.Label("pass"))

	code = append(code,
		asm.LoadMem(asm.R2, context, addrSocket, asm.DWord).WithSymbol("node"),
		asm.JEq.Imm(asm.R2, 0, "pass"),
		asm.LoadMapPtr(asm.R1, 0).WithReference(passedMap),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, unix.BPF_SK_STORAGE_GET_F_CREATE),
		asm.FnSkStorageGet.Call(),
	)
	code = append(code, count(Passed, "pass")...)
	code = append(code, asm.Ja.Label("pass"))

	code = append(code, asm.Mov.Reg(found, asm.R0).WithSymbol("divert"))
	code = append(code, unbind(context, "write")...)
	code = append(code,
		asm.LoadMem(asm.R1, found, 0, asm.Word).WithSymbol("write"),
		asm.LoadMem(asm.R2, found, 4, asm.Half),
		asm.StoreMem(context, ip, asm.R1, asm.Word),
		asm.StoreMem(context, addrPort, asm.R2, asm.Word),
	)
	code = append(code, count(Diverted, "pass")...)
	return append(code,
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"),
		asm.Return(),
	)
}

// unbind undoes SO_BINDTODEVICE, which closes the way over lo, and goes to the label, which must
// follow. It uses R0 to R5.
func unbind(context asm.Register, done string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, context, addrSocket, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, done),
		asm.LoadMem(asm.R1, asm.R1, socketDevice, asm.Word),
		asm.JEq.Imm(asm.R1, 0, done),
		asm.StoreImm(asm.RFP, scratch, 0, asm.Word),
		asm.Mov.Reg(asm.R1, context),
		asm.Mov.Imm(asm.R2, unix.SOL_SOCKET),
		asm.Mov.Imm(asm.R3, unix.SO_BINDTODEVICE),
		asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, scratch),
		asm.Mov.Imm(asm.R5, 4),
		asm.FnSetsockopt.Call(),
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
