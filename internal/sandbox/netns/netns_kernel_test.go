package netns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/podid-io/podid/internal/testnet"
)

// A namespace is created, entered, used by a process, and removed. This process never leaves its
// own.
func TestLife(t *testing.T) {
	testnet.Require(t)
	own := link(t, "self")
	n := Namespace(fmt.Sprintf("podid-test-%d", os.Getpid()))
	t.Cleanup(func() { _ = n.Delete() })
	if n.Exists() {
		t.Fatal("it exists already")
	}
	if err := n.Create(); err != nil {
		t.Fatal(err)
	}
	if !n.Exists() {
		t.Error("it does not exist")
	}
	if err := n.Create(); err == nil {
		t.Error("it is made twice")
	}
	cmd := exec.Command("sleep", "600")
	err := n.Do(func() error {
		devices, err := net.Interfaces()
		if err != nil {
			return err
		}
		if len(devices) != 1 || devices[0].Name != "lo" {
			t.Errorf("devices: %v", devices)
		}
		return cmd.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	pids, err := n.Processes()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("inside are %v, %v; want %d", pids, err, cmd.Process.Pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for range 20 { // many threads, some of them reused, none in the wrong namespace
		_ = n.Do(func() error { return nil })
		if now := link(t, "thread-self"); now != own {
			t.Fatalf("this thread moved from %s to %s", own, now)
		}
	}
	if now := link(t, "self"); now != own {
		t.Errorf("this process moved from %s to %s", own, now)
	}
	for range 2 {
		if err := n.Delete(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(n.Path()); err == nil {
		t.Error("it is left behind")
	}
}

func link(t *testing.T, process string) string {
	t.Helper()
	l, err := os.Readlink("/proc/" + process + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
