// By which network interface a connection came in, and whether that still exists.

package server

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linkOf returns the number of the interface that the connection came in by, 0
// when the kernel does not say. The kernel notes it on the socket when the
// handshake is done; IP_PKTOPTIONS tells it of sockets that IP_PKTINFO is on for
// (net/ipv4/ip_sockglue.c: do_ip_getsockopt). Two system calls a connection.
func linkOf(c net.Conn) int {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	link := 0
	// Whatever goes wrong means that there is no evidence.
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) == nil {
			link = packetInfo(fd)
		}
	})
	return link
}

// linkGone reports whether the connection's network namespace has no interface of that number any
// more. The kernel does not give a number twice. It is false for 0, and when the kernel does not
// say. One system call.
func linkGone(c net.Conn, link int) bool {
	sc, ok := c.(syscall.Conn)
	if !ok || link == 0 {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	// A connection that is closed gets no answer anyway.
	_ = raw.Control(func(fd uintptr) {
		request, err := unix.NewIfreq("")
		if err != nil {
			return
		}
		request.SetUint32(uint32(link)) //nolint:gosec // the kernel's own number
		gone = errors.Is(unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, request), unix.ENODEV)
	})
	return gone
}

// packetInfo reads the interface out of the socket's IP_PKTOPTIONS.
func packetInfo(fd uintptr) int {
	var buffer [128]byte // three control messages of some 30 bytes fit
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
			return int(binary.NativeEndian.Uint32(data)) // struct in_pktinfo begins with the interface
		}
		rest = next
	}
	return 0
}
