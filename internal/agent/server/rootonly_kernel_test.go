package server

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// TestRootOnly: the socket for processes of the host answers root alone, also when its
// file lets others connect.
func TestRootOnly(t *testing.T) {
	testnet.Require(t)                                                       // it changes its user
	name := "@podid-test" + filepath.Base(t.TempDir()) + time.Now().String() // abstract: has no mode
	raw, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	l := RootOnly(raw, quiet())
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "served")
			_ = c.Close()
		}
	}()
	for user, want := range map[int]string{1000: "", 65534: "", 0: "served"} {
		got := make(chan string, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its user
			text, err := askAs(user, name)
			if err != nil {
				t.Error(err)
			}
			got <- text
		}()
		if text := <-got; text != want {
			t.Errorf("user %d got %q, want %q", user, text, want)
		}
	}
}

// askAs connects as a user, on the calling thread alone.
func askAs(user int, name string) (string, error) {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(user), uintptr(user), uintptr(user)); errno != 0 {
		return "", errno
	}
	c, err := net.DialTimeout("unix", name, time.Minute)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	text, err := io.ReadAll(c)
	if errors.Is(err, unix.ECONNRESET) {
		err = nil
	}
	return string(text), err
}
