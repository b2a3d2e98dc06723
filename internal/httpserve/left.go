// Whether a client has closed its connection.

package httpserve

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// left reports whether the client has closed a connection, and all that it sent was read. The
// server may not have noticed yet: while it finds new connections to accept, Go looks for what
// happens on others every 10 ms, in which a client can open and close hundreds.
func left(c net.Conn) bool {
	for c != nil {
		if socket, ok := c.(syscall.Conn); ok {
			return atEnd(socket)
		}
		wrapper, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return false // a connection of a test, within the process
		}
		c = wrapper.NetConn()
	}
	return false
}

func atEnd(socket syscall.Conn) bool {
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	end := false
	err = raw.Control(func(fd uintptr) { // not Read, which waits for the server's own
		var next [1]byte
		n, _, err := unix.Recvfrom(int(fd), next[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		end = err == nil && n == 0
	})
	return err == nil && end
}
