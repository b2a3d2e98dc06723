// Where a connection came from, as far as its socket shows.

package attest

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Origins determines where connections come from. It is safe for concurrent use.
type Origins struct {
	mu      sync.RWMutex
	bridges map[int]bool // by interface index: whether it is a bridge
}

// NewOrigins returns an Origins.
func NewOrigins() *Origins { return &Origins{bridges: map[int]bool{}} }

// Of returns the address that a connection comes from and the network interface that the address
// is behind. The zero Origin, which no pod matches, is returned for anything but TCP.
func (o *Origins) Of(c net.Conn) Origin {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return Origin{}
	}
	a := remote.AddrPort().Addr().Unmap().WithZone("")
	return Origin{Addr: a, Link: o.behind(interfaceOf(c), a)}
}

// interfaceOf returns the index of the interface that a connection came in by, or 0 if it is
// unknown. The kernel stores the index in the socket at the end of the handshake. IP_PKTOPTIONS
// returns it for sockets with IP_PKTINFO (net/ipv4/ip_sockglue.c: do_ip_getsockopt). It costs two
// system calls.
func interfaceOf(c net.Conn) int {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	index := 0
	// Errors leave the interface unknown.
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) == nil {
			index = packetInfo(fd)
		}
	})
	return index
}

// packetInfo reads the interface index from a socket's IP_PKTOPTIONS.
func packetInfo(fd uintptr) int {
	var buffer [128]byte // room for three control messages of some 30 bytes
	length := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_IP, unix.IP_PKTOPTIONS,
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 || length > uint32(len(buffer)) {
		return 0
	}
	for rest := buffer[:length]; len(rest) >= unix.SizeofCmsghdr; {
		header, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return 0
		}
		if header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo {
			return int(binary.NativeEndian.Uint32(data)) // struct in_pktinfo begins with the index
		}
		rest = next
	}
	return 0
}

// InterfaceGone reports whether the network namespace of a connection no longer has an interface
// with this index. The kernel never reuses an index. It returns false for index 0 and on errors. It
// costs one system call.
func InterfaceGone(c net.Conn, index int) bool {
	sc, ok := c.(syscall.Conn)
	if !ok || index == 0 {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	// The error means that the connection is closed: nothing can be written to it any more.
	_ = raw.Control(func(fd uintptr) {
		request, err := unix.NewIfreq("")
		if err != nil {
			return
		}
		request.SetUint32(uint32(index)) //nolint:gosec // an index from the kernel
		gone = errors.Is(unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, request), unix.ENODEV)
	})
	return gone
}
