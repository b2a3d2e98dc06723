// Whether a client has closed its connection.

package httpserve

import (
	"errors"
	"iter"
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

// maxLooks bounds the system calls for a new connection.
const maxLooks = 16

// closedByClient returns an idle connection that its client has closed, or nil if there is none
// among the first few.
func closedByClient(conns iter.Seq[*Conn]) *Conn {
	looks := 0
	for c := range conns {
		if c.idleSince.Load() == 0 {
			continue
		}
		if left(c.Conn) {
			return c
		}
		if looks++; looks == maxLooks {
			return nil
		}
	}
	return nil
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
		end = err == nil && n == 0 || errors.Is(err, unix.ECONNRESET)
	})
	return err == nil && end
}
