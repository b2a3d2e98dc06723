// The ways in which a program can connect.

package hooktest

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// connector connects in one way.
type connector struct {
	name string
	// connect returns a connected, blocking socket. sent means that it has sent the request.
	connect func() (fd int, sent bool, err error)
}

// Ways returns the names of all ways to connect by IPv4, and by IPv6 with an IPv4-mapped address.
func Ways() []string {
	var names []string
	for _, w := range ways() {
		names = append(names, w.name)
	}
	return names
}

// Ways6 returns the names of ways to connect by IPv6 to addresses that stand for the metadata
// service's elsewhere, but not for Linux.
func Ways6() []string {
	var names []string
	for _, w := range ways6() {
		names = append(names, w.name)
	}
	return names
}

func ways6() []connector {
	return []connector{
		{"IPv6, IPv4-compatible", func() (int, bool, error) { return plain6(0, "::169.254.169.254") }},
		{"IPv6, NAT64", func() (int, bool, error) { return plain6(0, "64:ff9b::169.254.169.254") }},
	}
}

func metadata() *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: 80, Addr: [4]byte{169, 254, 169, 254}}
}

func ways() []connector {
	return []connector{
		{"connect", func() (int, bool, error) { return plain(0) }},
		{"non-blocking", nonBlocking},
		{"IPv4-mapped", func() (int, bool, error) { return plain6(0, "::ffff:169.254.169.254") }},
		{"IPv4-mapped, MPTCP", func() (int, bool, error) { return plain6(unix.IPPROTO_MPTCP, "::ffff:169.254.169.254") }},
		{"IPv4-mapped, fast open by sendto", mappedFastOpen},
		{"fast open by sendto", func() (int, bool, error) { return fastOpen(0) }},
		{"fast open by sendto, again", fastOpenAgain},
		{"fast open by connect", func() (int, bool, error) {
			return plain(0, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1) })
		}},
		{"MPTCP", func() (int, bool, error) { return plain(unix.IPPROTO_MPTCP) }},
		{"MPTCP, fast open by sendto", func() (int, bool, error) { return fastOpen(unix.IPPROTO_MPTCP) }},
		{"bound address", func() (int, bool, error) { return plain(0, bindOwn) }},
		{"bound device", func() (int, bool, error) {
			return plain(0, func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0") })
		}},
		{"io_uring", uring},
	}
}

// Briefly is to connect and wait half a second at most, for connects that nothing answers.
const Briefly = "connect, briefly"

// Unanswered is the result of Briefly if nothing answers.
const Unanswered = "operation now in progress"

func briefly() (int, bool, error) {
	return plain(0, func(fd int) error {
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 500_000})
	})
}

// OtherPort is to connect to a port of the metadata service at which it does not listen.
const OtherPort = "connect to another port"

func otherPort() (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, false, err
	}
	to := metadata()
	to.Port = 8080
	return fd, false, unix.Connect(fd, to)
}

// plain connects a socket of a protocol after preparing it.
func plain(protocol int, prepare ...func(fd int) error) (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, protocol)
	if err != nil {
		return -1, false, err
	}
	for _, p := range prepare {
		if err := p(fd); err != nil {
			return -1, false, err
		}
	}
	return fd, false, unix.Connect(fd, metadata())
}

func nonBlocking() (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, false, err
	}
	if err := unix.Connect(fd, metadata()); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, false, err
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(clientTimeout.Milliseconds())); err != nil {
		return -1, false, err
	}
	failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && failed != 0 {
		err = unix.Errno(failed)
	}
	return fd, false, errors.Join(err, unix.SetNonblock(fd, false))
}

// plain6 connects an IPv6 socket of a protocol to port 80 of an address.
func plain6(protocol int, address string) (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, protocol)
	if err != nil {
		return -1, false, err
	}
	return fd, false, unix.Connect(fd, address6(address))
}

func address6(address string) *unix.SockaddrInet6 {
	return &unix.SockaddrInet6{Port: metadata().Port, Addr: netip.MustParseAddr(address).As16()}
}

// fastOpen connects within sendto, without a connect.
func fastOpen(protocol int) (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, protocol)
	if err != nil {
		return -1, false, err
	}
	err = unix.Sendto(fd, request(), unix.MSG_FASTOPEN, metadata())
	if errors.Is(err, unix.EOPNOTSUPP) { // MPTCP before Linux 6.2
		return fd, false, unix.Connect(fd, metadata())
	}
	return fd, true, err
}

// fastOpenAgain connects twice within sendto. If the listener knows TCP Fast Open, the second SYN
// carries the request.
func fastOpenAgain() (int, bool, error) {
	fd, sent, err := fastOpen(0)
	if err != nil {
		return fd, sent, err
	}
	_ = ask(fd, sent) // the same as the second time
	return fastOpen(0)
}

func mappedFastOpen() (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, false, err
	}
	return fd, true, unix.Sendto(fd, request(), unix.MSG_FASTOPEN, address6("::ffff:169.254.169.254"))
}

// bindOwn binds the address that the socket would get anyway.
func bindOwn(fd int) error {
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(probe) }()
	if err := unix.Connect(probe, metadata()); err != nil { // UDP: sends nothing
		return err
	}
	own, err := unix.Getsockname(probe)
	if err != nil {
		return err
	}
	own.(*unix.SockaddrInet4).Port = 0
	return unix.Bind(fd, own)
}
