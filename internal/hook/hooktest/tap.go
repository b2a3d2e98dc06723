// What arrives at the metadata service, and what can be read on the way.

package hooktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

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
	tap := &Tap{}
	listen(t, in, tap.take)
	return tap
}

// Sniffer counts the packets with a text in them, as a program with NET_RAW can read them.
type Sniffer struct {
	in           *testnet.Net
	text         []byte
	read, marked atomic.Int64
}

// NewSniffer reads the packets of all interfaces of a namespace until the test ends.
func NewSniffer(t testing.TB, in *testnet.Net, text string) *Sniffer {
	t.Helper()
	s := &Sniffer{in: in, text: []byte(text)}
	listen(t, in, func(frame []byte) {
		switch {
		case bytes.Contains(frame, s.text):
			s.read.Add(1)
		case bytes.Contains(frame, mark):
			s.marked.Add(1)
		}
	})
	return s
}

// mark is in a packet that a sniffer sends itself, to learn that it has read all before.
var mark = []byte("end of the packets") //nolint:gochecknoglobals // a constant

// Count returns how many packets have had the text so far.
func (s *Sniffer) Count(t testing.TB) int {
	t.Helper()
	before := s.marked.Load()
	err := s.in.Do(func() error {
		c, err := net.Dial("udp4", "127.0.0.1:9")
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write(mark)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(t.Context(), time.Millisecond, clientTimeout, true, func(context.Context) (bool, error) {
		return s.marked.Load() > before, nil
	})
	if err != nil {
		t.Fatalf("the sniffer does not read its own packet: %v", err)
	}
	return int(s.read.Load())
}

// manyPackets is room for what arrives faster than it is read.
const manyPackets = 64 << 20

// listen calls f with each frame of all interfaces of a namespace until the test ends.
func listen(t testing.TB, in *testnet.Net, f func(frame []byte)) {
	t.Helper()
	fd := -1
	err := in.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, manyPackets)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket, done := os.NewFile(uintptr(fd), "packets"), make(chan struct{})
	go func() {
		defer close(done)
		readFrames(socket, f)
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
}

func readFrames(socket *os.File, f func(frame []byte)) {
	packet := make([]byte, 1<<16)
	for {
		n, err := socket.Read(packet)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		f(packet[:n])
	}
}

func (t *Tap) take(frame []byte) {
	ip := ip4In(frame)
	if len(ip) < 20 || [4]byte(ip[16:20]) != metadata().Addr {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources = append(t.sources, netip.AddrFrom4([4]byte(ip[12:16])))
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
