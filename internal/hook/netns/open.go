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
	// Info is the namespace's for os.SameFile. Its inode number cannot be another namespace's while
	// the sockets keep this one alive.
	Info os.FileInfo

	// namespace is the namespace itself. What is opened later is opened through it: the file at the
	// path may be another namespace by then, or none.
	namespace *os.File
}

// Close closes the sockets.
func (s *Sockets) Close() error { return errors.Join(s.Listener.Close(), s.namespace.Close()) }

// Copy returns descriptors of the same sockets that are closed on their own.
func (s *Sockets) Copy() (*Sockets, error) {
	listener, err := duplicate(s.Listener)
	if err != nil {
		return nil, err
	}
	namespace, err := duplicate(s.namespace)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	return &Sockets{Cookie: s.Cookie, Address: s.Address, Listener: listener, Info: s.Info, namespace: namespace}, nil
}

// Diag opens a netlink socket in the namespace that knows the namespace's sockets
// (NETLINK_SOCK_DIAG). Two readers of one would get each other's answers.
func (s *Sockets) Diag() (diag *os.File, err error) {
	err = OnOwnThread(func() (err error) {
		if err := Enter(s.namespace); err != nil {
			return err
		}
		diag, err = diagHere(s.namespace.Name())
		return err
	})
	if err != nil {
		return nil, err
	}
	return diag, nil
}

const (
	// backlog is how many connections wait while no process accepts.
	backlog = 256
	// maxPorts is how many ports are tried if the pod uses the first itself.
	maxPorts = 8
)

// Open opens sockets in a network namespace, given its file, with the listener at the address or
// one of the next ports. It works before the namespace's lo is up.
func Open(path string, at netip.AddrPort) (s *Sockets, err error) {
	namespace, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	err = OnOwnThread(func() (err error) {
		if err := Enter(namespace); err != nil {
			return err
		}
		s, err = openHere(namespace, at)
		return err
	})
	if err != nil {
		_ = namespace.Close()
		return nil, err
	}
	return s, nil
}

// OnOwnThread runs f on a thread that ends afterward: no other goroutine ever runs on it, so f may
// enter a network namespace. A goroutine that f starts runs elsewhere.
func OnOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The main thread would not end, and represents the process in /proc: take another one.
			done <- OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// Enter moves this thread to a network namespace. Call it in OnOwnThread.
func Enter(namespace *os.File) error {
	err := control(namespace, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) })
	if err == nil {
		return nil
	}
	err = fmt.Errorf("enter network namespace %s: %w", namespace.Name(), err)
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: it needs CAP_SYS_ADMIN", err)
	}
	return err
}

// duplicate returns another descriptor of a file.
func duplicate(file *os.File) (*os.File, error) {
	var fd int
	err := control(file, func(original int) (err error) {
		fd, err = unix.FcntlInt(uintptr(original), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("duplicate a descriptor of network namespace %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// control runs f with a file's descriptor, which stays open meanwhile even if the file is closed.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(controlErr, err)
}

// openHere opens the sockets in a namespace, which is this thread's.
func openHere(namespace *os.File, at netip.AddrPort) (*Sockets, error) {
	path := namespace.Name()
	info, err := namespace.Stat()
	if err != nil {
		return nil, fmt.Errorf("identify network namespace: %w", err)
	}
	listener, address, err := listenHere(path, at)
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace %s: %w", path, err)
	}
	cookie, err := CookieOf(listener)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	return &Sockets{Cookie: cookie, Address: address, Listener: listener, Info: info, namespace: namespace}, nil
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

// The marks of a machine's first network namespace. The kernel counts cookies from 1
// (gen_cookie_next in include/linux/cookie.h). From Linux 6.18 on, other kinds of namespaces count,
// too, and the inode is a constant (NET_NS_INIT_INO in include/uapi/linux/nsfs.h).
const (
	firstCookie = 1
	firstInode  = 0xeffffff9
)

// IsFirst reports whether this thread is in the machine's first network namespace. It fails before
// Linux 5.14.
func IsFirst() (bool, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return false, fmt.Errorf("identify network namespace: %w", os.NewSyscallError("stat", err))
	}
	if stat.Ino == firstInode {
		return true, nil
	}
	cookie, err := Cookie()
	return cookie == firstCookie, err
}

// Cookie returns the cookie of this process's own network namespace.
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	socket := os.NewFile(uintptr(fd), "network namespace")
	defer func() { _ = socket.Close() }()
	return CookieOf(socket)
}

// CookieOf returns the cookie of a socket's namespace (SO_NETNS_COOKIE, Linux 5.14).
func CookieOf(socket *os.File) (cookie uint64, err error) {
	err = control(socket, func(fd int) (err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie (needs Linux 5.14): %w", err)
	}
	return cookie, nil
}
