package sockdiag

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/testnet"
)

// ownGroup returns the ID of this process's control group of version 2.
func ownGroup(t *testing.T) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			id, err := program.GroupID(filepath.Join(hooktest.Unified(t), path))
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
	}
	t.Fatal("this process is in no control group of version 2")
	return 0
}

// pod is a network namespace with a Diag, and a listener as the agent's.
type pod struct {
	t    *testing.T
	net  *testnet.Net
	diag *Diag
	at   netip.AddrPort
	l    net.Listener
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t, net: testnet.New(t)}
	p.diag = p.newDiag()
	p.l = p.listen("127.0.0.1:0")
	p.at = p.l.Addr().(*net.TCPAddr).AddrPort()
	return p
}

func (p *pod) newDiag() *Diag {
	p.t.Helper()
	d, err := New(p.netlink())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = d.Close() })
	return d
}

// netlink opens a sock_diag socket in the namespace.
func (p *pod) netlink() (socket *os.File) {
	p.t.Helper()
	p.do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		socket = os.NewFile(uintptr(fd), "diag")
		return err
	})
	return socket
}

func (p *pod) do(f func() error) {
	p.t.Helper()
	if err := p.net.Do(f); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) listen(at string) (l net.Listener) {
	p.t.Helper()
	p.do(func() (err error) { l, err = net.Listen("tcp4", at); return err })
	p.t.Cleanup(func() { _ = l.Close() })
	return l
}

// client connects with a socket of a family, after prepare.
func (p *pod) client(family int, prepare func(fd int) error) *net.TCPConn {
	p.t.Helper()
	var c net.Conn
	p.do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "client")
		defer func() { _ = file.Close() }()
		var to unix.Sockaddr = &unix.SockaddrInet4{Addr: p.at.Addr().As4(), Port: int(p.at.Port())}
		if family == unix.AF_INET6 {
			to = &unix.SockaddrInet6{Addr: p.at.Addr().As16(), Port: int(p.at.Port())}
		}
		if err := errors.Join(prepare(fd), unix.Connect(fd, to)); err != nil {
			return err
		}
		c, err = net.FileConn(file)
		return err
	})
	p.t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func plain(int) error { return nil }

func (p *pod) accept() net.Conn {
	p.t.Helper()
	c, err := p.l.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// is checks what the kernel says of the other end of a connection that was accepted.
func (p *pod) is(accepted net.Conn, want uint64, wantErr error) {
	p.t.Helper()
	got, err := p.diag.Group(accepted.RemoteAddr().(*net.TCPAddr).AddrPort(), accepted.LocalAddr().(*net.TCPAddr).AddrPort())
	if got != want || !errors.Is(err, wantErr) {
		p.t.Errorf("group %d, %v, want %d, %v", got, err, want, wantErr)
	}
}

// TestGroup: the kernel reports the control group of a socket, to many at a time.
func TestGroup(t *testing.T) {
	testnet.Require(t)
	p, want := newPod(t), ownGroup(t)
	var callers sync.WaitGroup
	for range 8 {
		from := p.client(unix.AF_INET, plain).LocalAddr().(*net.TCPAddr).AddrPort()
		callers.Go(func() {
			for range 100 {
				if got, err := p.diag.Group(from, p.at); err != nil || got != want {
					t.Errorf("group %d, want %d, %v", got, want, err)
					return
				}
			}
			// The kernel's check is of both ends.
			if _, err := p.diag.Group(from, netip.AddrPortFrom(p.at.Addr(), p.at.Port()+1)); !errors.Is(err, ErrNoSocket) {
				t.Errorf("other port: %v", err)
			}
		})
	}
	callers.Wait()
}

// TestSockets: the client's socket is found, whichever kind it is and while it is open.
func TestSockets(t *testing.T) {
	testnet.Require(t)
	p, own := newPod(t), ownGroup(t)
	toLo := func(fd int) error { return unix.BindToDevice(fd, "lo") }
	for name, connect := range map[string]func() *net.TCPConn{
		"plain":              func() *net.TCPConn { return p.client(unix.AF_INET, plain) },
		"bound to lo":        func() *net.TCPConn { return p.client(unix.AF_INET, toLo) },
		"v4-mapped":          func() *net.TCPConn { return p.client(unix.AF_INET6, plain) },
		"v4-mapped, bound":   func() *net.TCPConn { return p.client(unix.AF_INET6, toLo) },
		"closed for writing": func() *net.TCPConn { c := p.client(unix.AF_INET, plain); _ = c.CloseWrite(); return c },
	} {
		c := connect()
		accepted := p.accept()
		if name == "closed for writing" {
			if _, err := accepted.Read(make([]byte, 1)); err == nil {
				t.Error("not closed for writing")
			}
		}
		p.is(accepted, own, nil)
		_ = c.Close()
	}
}

// TestListenerAtPort: a listener that has taken the port of a client that is gone is not the
// client.
func TestListenerAtPort(t *testing.T) {
	testnet.Require(t)
	p := newPod(t)
	c := p.client(unix.AF_INET, plain)
	accepted := p.accept()
	if err := c.SetLinger(0); err != nil { // it leaves no socket behind
		t.Fatal(err)
	}
	_ = c.Close()
	p.is(accepted, 0, ErrNoSocket)
	p.listen(accepted.RemoteAddr().String())
	p.is(accepted, 0, ErrNoSocket)
}

// TestTimeWait: a socket that is closed has no group.
func TestTimeWait(t *testing.T) {
	testnet.Require(t)
	p := newPod(t)
	c := p.client(unix.AF_INET, plain)
	accepted := p.accept()
	_ = c.Close()
	_, _ = accepted.Read(make([]byte, 1)) // the client's end of data
	_ = accepted.Close()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		_, err := p.diag.Group(accepted.RemoteAddr().(*net.TCPAddr).AddrPort(), p.at)
		return err != nil, err // the client's end may take a moment to be closed
	})
	if !errors.Is(err, ErrNoSocket) {
		t.Error(err)
	}
}

// TestForged: a process in the namespace with NET_ADMIN cannot answer for the kernel.
func TestForged(t *testing.T) {
	testnet.Require(t)
	p, own := newPod(t), ownGroup(t)
	p.client(unix.AF_INET, plain)
	accepted := p.accept()
	forger := p.netlink()
	defer func() { _ = forger.Close() }()
	forge := func() error {
		name, err := unix.Getsockname(int(p.diag.socket.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		m := answer(p.diag.sequence+1, unix.AF_INET, established,
			accepted.RemoteAddr().(*net.TCPAddr).AddrPort(), p.at, own+1)
		to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: name.(*unix.SockaddrNetlink).Pid}
		return unix.Sendto(int(forger.Fd()), m, 0, to)
	}
	p.is(accepted, own, nil)
	if err := forge(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the kernel passed on a forged answer: %v", err)
	}
	p.is(accepted, own, nil)

	// One that arrived before the socket was connected does not count either.
	var disconnect unix.RawSockaddrAny // AF_UNSPEC
	if _, _, code := unix.Syscall(unix.SYS_CONNECT, p.diag.socket.Fd(), uintptr(unsafe.Pointer(&disconnect)), unix.SizeofSockaddrNetlink); code != 0 {
		t.Fatal(code)
	}
	if err := forge(); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(int(p.diag.socket.Fd()), true); err != nil { // Fd made it block
		t.Fatal(err)
	}
	p.is(accepted, own, nil)
}

// TestNoAnswer: the wait for an answer ends, and the next question gets its own.
func TestNoAnswer(t *testing.T) {
	testnet.Require(t)
	p, own := newPod(t), ownGroup(t)
	p.client(unix.AF_INET, plain)
	accepted := p.accept()
	if _, err := p.diag.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without a question: %v", err)
	}
	p.is(accepted, own, nil)
	if _, err := p.diag.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without a question, again: %v", err)
	}
}

// TestCheck: this kernel passes, in a namespace where it was never asked before.
func TestCheck(t *testing.T) {
	testnet.Require(t)
	if err := testnet.New(t).Do(func() error { return Check(t.Context()) }); err != nil {
		t.Error(err)
	}
}
