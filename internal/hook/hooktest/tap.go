// What arrives at the metadata service.

package hooktest

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// Tap records the sources of IPv4 packets to the metadata service that arrive in a namespace.
type Tap struct {
	mu      sync.Mutex
	sources []netip.Addr
}

// NewTap listens on all interfaces of a namespace until the test ends.
func NewTap(t testing.TB, in *testnet.Net) *Tap {
	t.Helper()
	fd := -1
	err := in.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "tap")
	tap, done := &Tap{}, make(chan struct{})
	go func() {
		defer close(done)
		tap.read(socket)
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return tap
}

func (t *Tap) read(socket *os.File) {
	to := metadata()
	packet := make([]byte, 1<<16)
	for {
		n, err := socket.Read(packet)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if n < 20 || binary.BigEndian.Uint32(packet[16:]) != binary.BigEndian.Uint32(to.Addr[:]) {
			continue
		}
		t.mu.Lock()
		t.sources = append(t.sources, netip.AddrFrom4([4]byte(packet[12:16])))
		t.mu.Unlock()
	}
}

// Sources returns the sources of the packets so far.
func (t *Tap) Sources() []netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]netip.Addr{}, t.sources...)
}
