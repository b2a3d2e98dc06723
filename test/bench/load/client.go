// One connection.

package load

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// client has at most one connection and at most one request in flight.
type client struct {
	index  int32
	source netip.Addr

	fd         int // -1: none
	connecting bool
	used       bool // a response was received on the connection before
	busy       bool // a request is in flight
	again      bool // … and is a retry
	since      time.Time
	got        int // bytes of the response in the buffer
	in         [16 << 10]byte
}

// connect starts a connection. It is edge-triggered: the first event reports that it is
// established, later ones that there is data to read.
func (c *client) connect(epoll int, to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd, c.connecting = fd, true
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1), // connect chooses among the ports that are free for this target
		unix.Bind(fd, &unix.SockaddrInet4{Addr: c.source.As4()}),
	); err != nil {
		return fmt.Errorf("prepare a socket for %s: %w", c.source, err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: c.index}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// connected returns the result of the connection attempt.
func (c *client) connected() error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

func (c *client) write(request []byte) error {
	n, err := unix.Write(c.fd, request)
	if err != nil || n != len(request) { // an empty socket takes some hundred bytes at once
		return fmt.Errorf("send a request: %d of %d bytes: %w", n, len(request), err)
	}
	return nil
}

func (c *client) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd, c.connecting = -1, false
	}
}
