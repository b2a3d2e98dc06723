// The newest network interface, read from the kernel.

package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// linkHeader is the size of the kernel's struct ifinfomsg, and linkIndex where it has the index.
	linkHeader = unix.SizeofIfInfomsg
	linkIndex  = 4
	// skipCounters is RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h).
	skipCounters = 1 << 3
	// linkBuffer is more than the kernel sends at once if it may not send more.
	linkBuffer = 16 << 10
)

// newestLink lists the interfaces. net.Interfaces takes ten times as long, which counts: an agent
// that starts asks once for each pod, and each pod has an interface.
func newestLink() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Sendto(fd, linkRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	newest, buffer := 0, make([]byte, linkBuffer)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, os.NewSyscallError("recvfrom", err)
		case n > len(buffer):
			return 0, fmt.Errorf("list interfaces: a message of %d bytes", n)
		}
		most, done, err := newestIn(buffer[:n])
		if newest = max(newest, most); done || err != nil {
			return newest, err
		}
	}
}

// linkRequest asks for all interfaces, without their counters.
func linkRequest() []byte {
	native := binary.NativeEndian
	m := make([]byte, unix.SizeofNlMsghdr+linkHeader, unix.SizeofNlMsghdr+linkHeader+8)
	native.PutUint16(m[4:], unix.RTM_GETLINK)
	native.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m = native.AppendUint16(m, 8)
	m = native.AppendUint16(m, unix.IFLA_EXT_MASK)
	m = native.AppendUint32(m, skipCounters)
	native.PutUint32(m, uint32(len(m))) //nolint:gosec // a few bytes
	return m
}

// newestIn returns the highest index among messages, and whether the last one is among them.
func newestIn(messages []byte) (newest int, done bool, err error) {
	native := binary.NativeEndian
	for len(messages) >= unix.SizeofNlMsghdr {
		size := int(native.Uint32(messages))
		if size < unix.SizeofNlMsghdr || size > len(messages) {
			break
		}
		switch kind := native.Uint16(messages[4:]); {
		case kind == unix.NLMSG_DONE:
			return newest, true, nil
		case kind == unix.RTM_NEWLINK && size >= unix.SizeofNlMsghdr+linkHeader:
			newest = max(newest, int(native.Uint32(messages[unix.SizeofNlMsghdr+linkIndex:])))
		default:
			return newest, false, fmt.Errorf("list interfaces: a message of type %d", kind)
		}
		messages = messages[min((size+3)&^3, len(messages)):]
	}
	if len(messages) > 0 {
		return newest, false, errors.New("list interfaces: a broken message")
	}
	return newest, false, nil
}
