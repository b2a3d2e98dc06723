// The safety of testnet itself: namespaces are new, threads do not leak, and the machine's network
// is refused.
package testnet

import (
	"net"
	"os"
	"runtime"
	"testing"
)

func TestNamespacesAreFresh(t *testing.T) {
	Require(t)
	n := New(t)
	var names []string
	must(t, "list interfaces", n.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names = append(names, l.Name)
		}
		return err
	}))
	if len(names) != 1 || names[0] != "lo" {
		t.Fatalf("a new namespace has %v, want lo alone", names)
	}
}

func TestThreadsDoNotLeak(t *testing.T) {
	Require(t)
	n := New(t)
	for range 20 {
		must(t, "do nothing", n.Do(func() error { return nil }))
		runtime.LockOSThread()
		mine, err := os.Readlink("/proc/thread-self/ns/net")
		runtime.UnlockOSThread()
		must(t, "read own namespace", err)
		machine, err := os.Readlink("/proc/self/ns/net")
		must(t, "read the process's namespace", err)
		if mine != machine {
			t.Fatalf("the test's own goroutine is in %s, want %s", mine, machine)
		}
	}
}

func TestMachineNetRefused(t *testing.T) {
	Require(t)
	machine, err := os.Open("/proc/self/ns/net")
	must(t, "open the process's namespace", err)
	t.Cleanup(func() { _ = machine.Close() })
	id, err := namespaceOf("self")
	must(t, "name the process's namespace", err)
	for _, n := range []*Net{{file: machine}, {file: machine, id: id}} {
		called := false
		err = n.Do(func() error { called = true; return nil })
		if err == nil || called {
			t.Fatalf("entered the machine's network (error %v)", err)
		}
	}
}
