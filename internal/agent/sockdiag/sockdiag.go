// Package sockdiag asks the kernel which control group a connection's other end belongs to.
//
// A pod's process and the agent are connected within the pod's network namespace, so the kernel
// knows both sockets. Its answer does not depend on addresses, which a neighbor can forge, and it
// needs no privilege.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of Group.
var (
	// ErrNoSocket means that no socket of the namespace has these ends: the caller is not in it, or
	// has closed its socket.
	ErrNoSocket = errors.New("no such socket in the network namespace")
	// ErrNoGroup means that the kernel does not report control groups (before Linux 5.8).
	ErrNoGroup = errors.New("the kernel does not report the control groups of sockets (Linux 5.8 does)")
)

// answerTimeout bounds the wait for the kernel, which answers at once.
const answerTimeout = time.Second

// Diag asks about the sockets of one network namespace. It is safe for concurrent use.
//
// A process in the namespace with NET_ADMIN may send messages to its socket that look like answers.
// So the socket is connected to the kernel, which then refuses them, and only answers that the
// kernel sent count.
type Diag struct {
	mu       sync.Mutex
	socket   *os.File // NETLINK_SOCK_DIAG, not blocking
	raw      syscall.RawConn
	sequence uint32
	buffer   [2048]byte
}

// New returns a Diag that uses a netlink socket (NETLINK_SOCK_DIAG) and closes it in the end.
func New(socket *os.File) (*Diag, error) {
	fd := int(socket.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("connect to sock_diag: %w", os.NewSyscallError("connect", err))
	}
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	d := &Diag{socket: os.NewFile(uintptr(copied), "sock_diag"), sequence: rand.Uint32()} //nolint:gosec // a number to recognize answers by
	if d.raw, err = d.socket.SyscallConn(); err != nil {                                  // of the kind that can wait
		_ = d.socket.Close()
		return nil, err
	}
	_ = socket.Close()
	return d, nil
}

// Close closes the netlink socket.
func (d *Diag) Close() error { return d.socket.Close() }

// Group returns the ID of the control group of the socket with these ends, its own first. The ID is
// the inode of the group's folder.
func (d *Diag) Group(from, to netip.AddrPort) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sequence++
	if _, err := d.socket.Write(request(d.sequence, from, to)); err != nil {
		return 0, fmt.Errorf("ask sock_diag: %w", err)
	}
	for {
		m, err := d.receive()
		if err != nil {
			return 0, fmt.Errorf("read answer of sock_diag: %w", err)
		}
		s, late, err := parse(m, d.sequence)
		if late { // of a question that was given up
			continue
		}
		if err != nil {
			return 0, err
		}
		return s.callers(from, to)
	}
}

// receive returns the next message that the kernel sent. It answers while the question is sent, so
// that there is nothing to wait for; should it not, the wait is bounded.
func (d *Diag) receive() ([]byte, error) {
	patient := false
	for {
		n, sender, err := d.next(patient)
		switch {
		case errors.Is(err, unix.ENOBUFS): // messages were lost before the socket was connected
		case errors.Is(err, unix.EAGAIN):
			if err := d.socket.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
				return nil, err
			}
			patient = true
		case err != nil:
			return nil, err
		default:
			if from, ok := sender.(*unix.SockaddrNetlink); ok && from.Pid == 0 {
				return d.buffer[:n], nil
			}
		}
	}
}

// next reads a message. If patient, it waits for one until the deadline.
func (d *Diag) next(patient bool) (n int, sender unix.Sockaddr, err error) {
	read := func(fd uintptr) bool {
		for {
			if n, sender, err = unix.Recvfrom(int(fd), d.buffer[:], 0); !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	}
	if patient {
		if err := d.raw.Read(read); err != nil {
			return 0, nil, err
		}
	} else if err := d.raw.Control(func(fd uintptr) { read(fd) }); err != nil { // whose deadline may have passed
		return 0, nil, err
	}
	return n, sender, err
}

// Offsets in the kernel's structs nlmsghdr, inet_diag_req_v2, inet_diag_sockid and inet_diag_msg
// (linux/netlink.h, linux/inet_diag.h).
const (
	header         = unix.SizeofNlMsghdr
	requestSize    = header + 56
	requestFamily  = header
	requestProto   = header + 1
	requestStates  = header + 4
	requestSocket  = header + 8
	socketFrom     = 0 // ports as on the wire, then addresses
	socketTo       = 2
	socketFromIP   = 4
	socketToIP     = 20
	socketDevice   = 36
	socketCookie   = 40
	answerState    = 1
	answerSocket   = 4
	answerSize     = 72
	attributeGroup = 21 // INET_DIAG_CGROUP_ID
	attributeHead  = 4
	allStates      = 0xffffffff
	noCookie       = 0xffffffff
)

// loopback is the index of lo, the first device of each network namespace.
const loopback = 1

// States of TCP sockets (net/tcp_states.h) that are no end of a connection.
const (
	stateSynReceived = 3 // without a socket yet
	stateTimeWait    = 6 // the socket is closed
	stateListen      = 10
)

// request asks for one socket. A socket that is bound to a device is found only by the device, and
// one that is not by any: so the device is lo, which connections within a namespace use.
func request(sequence uint32, from, to netip.AddrPort) []byte {
	native := binary.NativeEndian
	m := make([]byte, requestSize)
	native.PutUint32(m[0:], requestSize)
	native.PutUint16(m[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(m[6:], unix.NLM_F_REQUEST)
	native.PutUint32(m[8:], sequence)
	m[requestFamily], m[requestProto] = unix.AF_INET, unix.IPPROTO_TCP
	native.PutUint32(m[requestStates:], allStates)
	socket := m[requestSocket:]
	binary.BigEndian.PutUint16(socket[socketFrom:], from.Port())
	binary.BigEndian.PutUint16(socket[socketTo:], to.Port())
	fromIP, toIP := from.Addr().Unmap().As4(), to.Addr().Unmap().As4()
	copy(socket[socketFromIP:], fromIP[:])
	copy(socket[socketToIP:], toIP[:])
	native.PutUint32(socket[socketDevice:], loopback)
	native.PutUint32(socket[socketCookie:], noCookie)
	native.PutUint32(socket[socketCookie+4:], noCookie)
	return m
}

// found is a socket that the kernel reports.
type found struct {
	state    byte
	from, to netip.AddrPort
	group    uint64 // 0 if it reports none
}

// callers returns the group of a socket if it is an end of the connection with these ends. Where
// there is none, the kernel reports a listener at the port.
func (s found) callers(from, to netip.AddrPort) (uint64, error) {
	unmap := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
	switch {
	case s.state == stateListen, s.state == stateTimeWait, s.state == stateSynReceived,
		s.from != unmap(from), s.to != unmap(to):
		return 0, ErrNoSocket
	case s.group == 0:
		return 0, ErrNoGroup
	}
	return s.group, nil
}

// parse reads the answer to a request. late means that it answers an earlier one.
func parse(m []byte, sequence uint32) (s found, late bool, err error) {
	native := binary.NativeEndian
	if len(m) < header {
		return s, false, fmt.Errorf("answer of sock_diag has %d bytes", len(m))
	}
	if native.Uint32(m[8:]) != sequence {
		return s, true, nil
	}
	switch kind := native.Uint16(m[4:]); kind {
	case unix.SOCK_DIAG_BY_FAMILY:
	case unix.NLMSG_ERROR:
		return s, false, errorIn(m[header:])
	default:
		return s, false, fmt.Errorf("answer of sock_diag is of type %d", kind)
	}
	if len(m) < header+answerSize {
		return s, false, fmt.Errorf("answer of sock_diag has %d bytes", len(m))
	}
	answer := m[header:]
	s.state = answer[answerState]
	s.from = end(answer[0], answer[answerSocket+socketFrom:], answer[answerSocket+socketFromIP:])
	s.to = end(answer[0], answer[answerSocket+socketTo:], answer[answerSocket+socketToIP:])
	s.group = groupIn(answer[answerSize:])
	return s, false, nil
}

// end returns an end of a socket. One of family IPv6 may have an IPv4 connection.
func end(family byte, port, ip []byte) netip.AddrPort {
	address := netip.AddrFrom16([16]byte(ip)).Unmap()
	if family == unix.AF_INET {
		address = netip.AddrFrom4([4]byte(ip))
	}
	return netip.AddrPortFrom(address, binary.BigEndian.Uint16(port))
}

// groupIn returns the ID of a control group that is among attributes, or 0.
func groupIn(attributes []byte) uint64 {
	native := binary.NativeEndian
	for rest := attributes; len(rest) >= attributeHead; {
		size := int(native.Uint16(rest))
		if size < attributeHead || size > len(rest) {
			break
		}
		if native.Uint16(rest[2:]) == attributeGroup && size >= attributeHead+8 {
			return native.Uint64(rest[attributeHead:])
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return 0
}

// errorIn returns the error in a netlink message.
func errorIn(payload []byte) error {
	if len(payload) < 4 {
		return errors.New("answer of sock_diag has no error code")
	}
	code := unix.Errno(-int32(binary.NativeEndian.Uint32(payload))) //nolint:gosec // the kernel's errors are negative
	if code == unix.ENOENT {
		return ErrNoSocket
	}
	return fmt.Errorf("ask sock_diag: %w", code)
}
