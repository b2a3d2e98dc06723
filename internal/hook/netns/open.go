// Package netns finds pods' network namespaces and opens podid's sockets in them.
//
// A socket belongs to the namespace in which it was opened, whichever process has it. So one
// process enters a namespace for as long as it takes to open two sockets, and another one, without
// any privilege, serves the pod through them.
package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Sockets are podid's sockets in a pod's network namespace. They keep the namespace alive until
// they are closed.
type Sockets struct {
	// Cookie identifies the namespace for as long as the machine runs.
	Cookie uint64
	// Address is where Listener listens.
	Address netip.AddrPort
	// Listener accepts the pod's connections. It cannot be reached from outside of the namespace.
	Listener *os.File
}

// Close closes the sockets.
func (s *Sockets) Close() error { return s.Listener.Close() }

const (
	// backlog is how many connections wait while no process accepts.
	backlog = 256
	// maxPorts is how many ports are tried if the pod uses the first itself.
	maxPorts = 8
)

// Open opens sockets in a network namespace, given its file, with the listener at the address or
// one of the next ports. It works before the namespace's lo is up.
func Open(path string, at netip.AddrPort) (s *Sockets, err error) {
	err = within(path, func() (err error) {
		s, err = openHere(path, at)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// OpenDiag opens a netlink socket in a namespace that knows the namespace's sockets
// (NETLINK_SOCK_DIAG). Two readers of one would get each other's answers.
func OpenDiag(path string) (diag *os.File, err error) {
	err = within(path, func() (err error) {
		diag, err = diagHere(path)
		return err
	})
	if err != nil {
		return nil, err
	}
	return diag, nil
}

// within runs f in a network namespace, on a thread that ends afterward: no other goroutine ever
// runs on it.
func within(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The main thread would not end, and represents the process in /proc: take another one.
			done <- within(path, f)
			runtime.UnlockOSThread()
			return
		}
		done <- enter(path, f)
	}()
	return <-done
}

func enter(path string, f func() error) error {
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = namespace.Close() }()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		err = fmt.Errorf("enter network namespace %s: %w", path, err)
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: it needs CAP_SYS_ADMIN", err)
		}
		return err
	}
	return f()
}

// openHere opens the sockets in the namespace of this thread.
func openHere(path string, at netip.AddrPort) (*Sockets, error) {
	listener, address, err := listenHere(path, at)
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace %s: %w", path, err)
	}
	s := &Sockets{Listener: listener, Address: address}
	if s.Cookie, err = cookieOf(listener); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return s, nil
}

func listenHere(path string, at netip.AddrPort) (*os.File, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return nil, at, os.NewSyscallError("socket", err)
	}
	listener := os.NewFile(uintptr(fd), path)
	at, err = bindAndListen(fd, at)
	if err != nil {
		_ = listener.Close()
		return nil, at, err
	}
	return listener, at, nil
}

func bindAndListen(fd int, at netip.AddrPort) (netip.AddrPort, error) {
	err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1), // lo may be down
	)
	if err != nil {
		return at, os.NewSyscallError("setsockopt", err)
	}
	address := unix.SockaddrInet4{Addr: at.Addr().As4()}
	for port := int(at.Port()); port < int(at.Port())+maxPorts; port++ {
		address.Port = port
		if err = unix.Bind(fd, &address); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return at, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return at, os.NewSyscallError("listen", err)
	}
	return netip.AddrPortFrom(at.Addr(), uint16(address.Port)), nil //nolint:gosec // came from a port
}

func diagHere(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag in network namespace %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Cookie returns the cookie of this process's own network namespace.
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	socket := os.NewFile(uintptr(fd), "network namespace")
	defer func() { _ = socket.Close() }()
	return cookieOf(socket)
}

// cookieOf returns the cookie of a socket's namespace (SO_NETNS_COOKIE, Linux 5.14).
func cookieOf(socket *os.File) (cookie uint64, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie: %w", err)
	}
	controlErr := raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) })
	if err = errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("read network namespace cookie (needs Linux 5.14): %w", err)
	}
	return cookie, nil
}
