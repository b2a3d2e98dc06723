// The connection of a probe.

package wireprobe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connect connects from this thread's network namespace and asks the question.
func connect(ctx context.Context, c Config) (Finding, error) {
	fd, err := open()
	if err != nil {
		return Finding{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrInet4{Addr: c.Metadata.Addr().As4(), Port: int(c.Metadata.Port())}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return Finding{}, os.NewSyscallError("connect", err)
	}
	switch ready, err := wait(ctx, fd, unix.POLLOUT, connectTime); {
	case err != nil:
		return Finding{}, err
	case !ready:
		return Finding{Unknown, "no answer to its connection"}, nil
	}
	if found, failed := refused(fd); failed {
		return found, nil
	}
	return ask(ctx, fd, c.Question)
}

// open returns a socket whose packets get one hop far, and that keeps ICMP errors.
func open() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TTL, oneHop),
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1),
	)
	if err != nil {
		return -1, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fd))
	}
	return fd, nil
}

// pollTime is how often a wait looks whether it is still wanted.
const pollTime = 100 * time.Millisecond

// wait waits for an event of the socket. It reports whether there was one.
func wait(ctx context.Context, fd int, event int16, limit time.Duration) (bool, error) {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: event}} //nolint:gosec // a file descriptor
		n, err := unix.Poll(poll, int(pollTime/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, nil
}

// refused returns what refused the connection, if it was.
func refused(fd int) (found Finding, failed bool) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code == 0 {
		return Finding{}, false
	}
	if err == nil {
		err = unix.Errno(code)
	}
	const timeExceeded = 11 // RFC 792
	icmp, is := icmpError(fd)
	switch {
	case is && icmp.Type == timeExceeded:
		return Finding{Router, "the node routed it on"}, true
	case is:
		return Finding{Unknown, fmt.Sprintf("it was refused with ICMP type %d, code %d: %v", icmp.Type, icmp.Code, err)}, true
	case errors.Is(err, unix.ECONNREFUSED):
		return Finding{Reset, err.Error()}, true
	}
	return Finding{Unknown, err.Error()}, true
}

// icmpError returns the ICMP error that ended the connection, if one did.
func icmpError(fd int) (e unix.SockExtendedErr, is bool) {
	control := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE)
	if err != nil {
		return e, false
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return e, false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR && len(m.Data) >= int(unsafe.Sizeof(e)) {
			e = *(*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0]))
			return e, e.Origin == unix.SO_EE_ORIGIN_ICMP
		}
	}
	return e, false
}

// maxAnswer bounds an answer.
const maxAnswer = 2048

// ask asks the question on an open connection.
func ask(ctx context.Context, fd int, q Question) (Finding, error) {
	request := "GET " + Path + " HTTP/1.1\r\nHost: podid\r\nMetadata: true\r\n" + Header + ": " + q.Question + "\r\nConnection: close\r\n\r\n"
	if _, err := unix.Write(fd, []byte(request)); err != nil {
		return Finding{Silence, "its connection was accepted and closed"}, nil //nolint:nilerr // that is what it met
	}
	var answer []byte
	buffer := make([]byte, maxAnswer)
	for end := time.Now().Add(answerTime); len(answer) < maxAnswer; {
		ready, err := wait(ctx, fd, unix.POLLIN, time.Until(end))
		if err != nil {
			return Finding{}, err
		}
		if !ready {
			break
		}
		n, err := unix.Read(fd, buffer)
		if n <= 0 || err != nil {
			break
		}
		if answer = append(answer, buffer[:n]...); bytes.Contains(answer, []byte(q.Answer)) {
			return Finding{Met: Agent}, nil
		}
	}
	if len(answer) == 0 {
		return Finding{Silence, "its connection was accepted, and nothing was answered"}, nil
	}
	line, _, _ := bytes.Cut(answer, []byte("\n"))
	return Finding{Stranger, fmt.Sprintf("the answer was %.60q", bytes.TrimSpace(line))}, nil
}
