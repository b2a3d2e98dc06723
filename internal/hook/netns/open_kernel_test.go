package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testnet"
)

var address = netip.MustParseAddrPort("127.0.0.1:64579")

// TestOpen: the listener is in the namespace, where the pod may use the port itself.
func TestOpen(t *testing.T) {
	hooktest.Require(t)
	namespaces, pod := hooktest.NewNamespaces(t), testnet.New(t)
	namespaces.Add("pod", pod)
	path := filepath.Join(namespaces.Folder, "pod")
	for i := range maxPorts + 1 {
		s, err := Open(path, address)
		if i == maxPorts {
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("with all ports in use: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		if want := netip.AddrPortFrom(address.Addr(), address.Port()+uint16(i)); s.Address != want {
			t.Errorf("listens at %s, want %s", s.Address, want)
		}
		if err := pod.Do(func() error {
			if cookie, err := Cookie(); err != nil || cookie != s.Cookie {
				t.Errorf("cookie %d, want %d, %v", s.Cookie, cookie, err)
			}
			c, err := net.Dial("tcp4", s.Address.String())
			if err == nil {
				_ = c.Close()
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// TestDiag: the sock_diag socket is of the listener's namespace, also when its file is unmounted,
// removed, or leads to another namespace.
func TestDiag(t *testing.T) {
	hooktest.Require(t)
	namespaces, pod := hooktest.NewNamespaces(t), testnet.New(t)
	namespaces.Add("pod", pod)
	path := filepath.Join(namespaces.Folder, "pod")
	original, err := Open(path, address)
	if err != nil {
		t.Fatal(err)
	}
	s, err := original.Copy()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := original.Close(); err != nil {
		t.Fatal(err)
	}
	wantHere := func(when string) {
		t.Helper()
		diag, err := s.Diag()
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		defer func() { _ = diag.Close() }()
		if cookie, err := CookieOf(diag); err != nil || cookie != s.Cookie {
			t.Errorf("%s: cookie %d, want %d, %v", when, cookie, s.Cookie, err)
		}
	}
	wantHere("present")
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	wantHere("unmounted")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantHere("removed")
	namespaces.Add("pod", testnet.New(t))
	wantHere("replaced")
}

// TestLoDown: the sockets are there before the network plugin has set up anything.
func TestLoDown(t *testing.T) {
	hooktest.Require(t)
	namespaces, pod := hooktest.NewNamespaces(t), testnet.New(t)
	namespaces.Add("pod", pod)
	if err := pod.Do(func() error { return setDown("lo") }); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(namespaces.Folder, "pod"), address)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// TestUserNamespace: the namespace of a pod with users of its own (hostUsers: false) is entered.
func TestUserNamespace(t *testing.T) {
	testnet.Require(t)
	own := []syscall.SysProcIDMap{{HostID: 100000, Size: 1000}}
	pod := exec.CommandContext(t.Context(), "sleep", "60")
	pod.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: own, GidMappings: own, Pdeathsig: syscall.SIGKILL,
	}
	if err := pod.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = pod.Process.Kill(), pod.Wait() }()
	s, err := Open(fmt.Sprintf("/proc/%d/ns/net", pod.Process.Pid), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	diag, err := s.Diag()
	if err != nil {
		t.Fatal(err)
	}
	_ = diag.Close()
}

// TestNoNamespace: a file that is no namespace yet, or no more, is an error.
func TestNoNamespace(t *testing.T) {
	testnet.Require(t)
	folder := t.TempDir()
	create(t, folder, "a")
	if _, err := Open(filepath.Join(folder, "a"), address); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a plain file: %v", err)
	}
	if _, err := Open(filepath.Join(folder, "b"), address); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestThreads: threads that were in pods' namespaces are not used again.
func TestThreads(t *testing.T) {
	hooktest.Require(t)
	namespaces, pod := hooktest.NewNamespaces(t), testnet.New(t)
	namespaces.Add("pod", pod)
	s, err := Open(filepath.Join(namespaces.Folder, "pod"), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for range 100 {
		diag, err := s.Diag()
		if err != nil {
			t.Fatal(err)
		}
		_ = diag.Close()
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	// A thread takes a moment to end after its goroutine.
	var elsewhere string
	err = wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		elsewhere = ""
		threads, err := os.ReadDir("/proc/self/task")
		for _, thread := range threads {
			in, err := os.Readlink(filepath.Join("/proc/self/task", thread.Name(), "ns/net"))
			if err == nil && in != own {
				elsewhere = thread.Name() + " in " + in
			}
		}
		return elsewhere == "", err
	})
	if err != nil {
		t.Errorf("thread %s: %v", elsewhere, err)
	}
}

func setDown(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(l)
}
