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
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of Group.
var (
	// ErrNoSocket means that no socket of the namespace has these addresses: the caller is not in it,
	// or has closed its socket.
	ErrNoSocket = errors.New("no such socket in the network namespace")
	// ErrNoGroup means that the kernel does not report control groups (before Linux 5.8).
	ErrNoGroup = errors.New("the kernel does not report the control groups of sockets")
)

// answerTimeout bounds the wait for the kernel, which answers at once.
const answerTimeout = time.Second

// Diag asks about the sockets of one network namespace. It is safe for concurrent use.
type Diag struct {
	mu       sync.Mutex
	socket   *os.File // NETLINK_SOCK_DIAG, not blocking
	sequence uint32
	buffer   [2048]byte
}

// New returns a Diag that uses a netlink socket (NETLINK_SOCK_DIAG) and closes it in the end.
func New(socket *os.File) (*Diag, error) {
	fd := int(socket.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	_ = socket.Close()
	return &Diag{socket: os.NewFile(uintptr(copied), "sock_diag")}, nil // of the kind that can wait
}

// Close closes the netlink socket.
func (d *Diag) Close() error { return d.socket.Close() }

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
	socketCookie   = 40
	answerSize     = 72
	attributeGroup = 21 // INET_DIAG_CGROUP_ID
	attributeHead  = 4
	allStates      = 0xffffffff
	noCookie       = 0xffffffff
)

// Group returns the ID of the control group of the socket with these ends: the inode of the group's
// folder.
func (d *Diag) Group(from, to netip.AddrPort) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sequence++
	if err := d.socket.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, fmt.Errorf("ask sock_diag: %w", err)
	}
	if _, err := d.socket.Write(request(d.sequence, from, to)); err != nil {
		return 0, fmt.Errorf("ask sock_diag: %w", err)
	}
	for {
		n, err := d.socket.Read(d.buffer[:])
		if err != nil {
			return 0, fmt.Errorf("read answer of sock_diag: %w", err)
		}
		group, late, err := parse(d.buffer[:n], d.sequence)
		if late { // of a question that was given up
			continue
		}
		return group, err
	}
}

// request asks for one socket.
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
	native.PutUint32(socket[socketCookie:], noCookie)
	native.PutUint32(socket[socketCookie+4:], noCookie)
	return m
}

// parse reads the answer to a request. late means that it answers an earlier one.
func parse(m []byte, sequence uint32) (group uint64, late bool, err error) {
	native := binary.NativeEndian
	if len(m) < header {
		return 0, false, fmt.Errorf("answer of sock_diag has %d bytes", len(m))
	}
	if native.Uint32(m[8:]) != sequence {
		return 0, true, nil
	}
	switch kind := native.Uint16(m[4:]); kind {
	case unix.SOCK_DIAG_BY_FAMILY:
	case unix.NLMSG_ERROR:
		return 0, false, errorIn(m[header:])
	default:
		return 0, false, fmt.Errorf("answer of sock_diag is of type %d", kind)
	}
	if len(m) < header+answerSize {
		return 0, false, fmt.Errorf("answer of sock_diag has %d bytes", len(m))
	}
	for rest := m[header+answerSize:]; len(rest) >= attributeHead; {
		size := int(native.Uint16(rest))
		if size < attributeHead || size > len(rest) {
			break
		}
		if native.Uint16(rest[2:]) == attributeGroup && size >= attributeHead+8 {
			return native.Uint64(rest[attributeHead:]), false, nil
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return 0, false, ErrNoGroup
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
