// Sending by AF_XDP: one frame in a ring that the kernel shares.

package hooktest

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// XDP is the way to send by AF_XDP. It goes past the traffic control and nftables of the interface.
const XDP = "AF_XDP"

const xdpFrameSize = 4096

// sendXDP sends a SYN by AF_XDP to the gateway.
func sendXDP() error {
	out, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	frame, err := frameToGateway(out)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ring, tail, err := xdpRing(fd, frame)
	if err != nil {
		return err
	}
	to := &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(out.Index)}
	if err := unix.Bind(fd, to); err != nil {
		return os.NewSyscallError("bind", err)
	}
	binary.NativeEndian.PutUint32(ring[8:], uint32(len(frame))) // at the address 0
	atomic.AddUint32(tail, 1)
	return os.NewSyscallError("sendto", unix.Sendto(fd, nil, unix.MSG_DONTWAIT, nil))
}

// xdpRing gives a socket memory with a frame in it, and the rings that it must have. It returns the
// first entry and the tail of that to send.
func xdpRing(fd int, frame []byte) (entry []byte, tail *uint32, err error) {
	memory, err := unix.Mmap(-1, 0, xdpFrameSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	copy(memory, frame)
	region := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: xdpFrameSize, Size: xdpFrameSize}
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&region)), unsafe.Sizeof(region), 0)
	if e != 0 {
		return nil, nil, fmt.Errorf("register memory: %w", e)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, ring, 1); err != nil {
			return nil, nil, os.NewSyscallError("setsockopt", err)
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	_, _, e = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return nil, nil, fmt.Errorf("read offsets: %w", e)
	}
	ring, err := unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(offsets.Tx.Desc)+int(unsafe.Sizeof(unix.XDPDesc{})),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return ring[offsets.Tx.Desc:], (*uint32)(unsafe.Pointer(&ring[offsets.Tx.Producer])), nil
}
