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
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
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
		ip := ip4In(packet[:n])
		if len(ip) < 20 || [4]byte(ip[16:20]) != to.Addr {
			continue
		}
		t.mu.Lock()
		t.sources = append(t.sources, netip.AddrFrom4([4]byte(ip[12:16])))
		t.mu.Unlock()
	}
}

// ip4In returns the IPv4 packet in an Ethernet frame with any VLAN tags, or nil.
func ip4In(frame []byte) []byte {
	for at := 12; at+2 <= len(frame); at += 4 {
		switch binary.BigEndian.Uint16(frame[at:]) {
		case unix.ETH_P_IP:
			return frame[at+2:]
		case unix.ETH_P_8021Q, unix.ETH_P_8021AD:
		default:
			return nil
		}
	}
	return nil
}

// Sources returns the sources of the packets so far.
func (t *Tap) Sources() []netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]netip.Addr{}, t.sources...)
}
