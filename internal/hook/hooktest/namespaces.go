// A container runtime's folder of network namespaces.

package hooktest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// Namespaces is a folder in which a container runtime keeps network namespaces.
type Namespaces struct {
	t      testing.TB
	Folder string
}

// NewNamespaces makes such a folder.
func NewNamespaces(t testing.TB) *Namespaces {
	t.Helper()
	return &Namespaces{t: t, Folder: t.TempDir()}
}

// Add adds a namespace, as a runtime does: first the file, then the namespace on it. It is removed
// when the test ends, if not before.
func (n *Namespaces) Add(name string, which *testnet.Net) {
	n.t.Helper()
	path := filepath.Join(n.Folder, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH) // removed before
		_ = os.Remove(path)
	})
	err := which.Do(func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") })
	if err != nil {
		n.t.Fatal(err)
	}
}

// Remove removes a namespace from the folder.
func (n *Namespaces) Remove(name string) {
	n.t.Helper()
	path := filepath.Join(n.Folder, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		n.t.Fatal(err)
	}
}
