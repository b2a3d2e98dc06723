package connections

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// TestRootOnly: the socket for processes of the host answers root alone, even if its file mode lets
// others connect.
func TestRootOnly(t *testing.T) {
	testnet.Require(t)                                                       // it changes its user ID
	name := "@podid-test" + filepath.Base(t.TempDir()) + time.Now().String() // abstract, so without a mode
	raw, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	l := RootOnly(raw, logr.Discard())
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
			runtime.LockOSThread() // never unlocked, so that the thread ends
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

// askAs connects as a user. Only the calling thread changes its user ID.
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
