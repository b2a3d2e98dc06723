// Standing between two neighbors: answering for another's address.

package hooktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/testnet"
)

// Station is a network namespace behind a bridge, and its interface there.
type Station struct {
	In      *testnet.Net
	Link    string
	Address netip.Addr
}

// poisonEvery is how often a lie is repeated: the station also hears the truth.
const poisonEvery = 20 * time.Millisecond

// Impersonate makes a station believe, until the test ends, that an address is the liar's. It
// returns when the station does.
func Impersonate(t testing.TB, liar, to Station, address netip.Addr) {
	t.Helper()
	own, theirs := liar.hardware(t), to.hardware(t)
	frame := arpRequest(own, theirs, address, to.Address)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- liar.In.Do(func() error { return repeat(liar.Link, frame, stop) }) }()
	t.Cleanup(sync.OnceFunc(func() {
		close(stop)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}))
	err := wait.PollUntilContextTimeout(t.Context(), poisonEvery, clientTimeout, true, func(context.Context) (bool, error) {
		return to.believes(address, own)
	})
	if err != nil {
		t.Fatalf("%s does not believe that %s is at %s: %v", to.Address, address, own, err)
	}
}

func (s Station) hardware(t testing.TB) (address net.HardwareAddr) {
	t.Helper()
	err := s.In.Do(func() error {
		link, err := net.InterfaceByName(s.Link)
		if err == nil {
			address = link.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// believes reports whether a station knows an address at a hardware address.
func (s Station) believes(address netip.Addr, at net.HardwareAddr) (found bool, err error) {
	err = s.In.Do(func() error {
		neighbors, err := netlink.NeighList(0, netlink.FAMILY_V4)
		found = slices.ContainsFunc(neighbors, func(n netlink.Neigh) bool {
			return n.IP.Equal(address.AsSlice()) && bytes.Equal(n.HardwareAddr, at)
		})
		return err
	})
	return found, err
}

// repeat sends a frame until stop is closed.
func repeat(link string, frame []byte, stop <-chan struct{}) error {
	out, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	tick := time.NewTicker(poisonEvery)
	defer tick.Stop()
	for {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: out.Index, Halen: 6}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-stop:
			return nil
		}
	}
}

// arpRequest returns a frame that asks where an address is, and says that another is at from.
func arpRequest(from, to net.HardwareAddr, sender, target netip.Addr) []byte {
	const ethernet, ip4, request = 1, unix.ETH_P_IP, 1
	frame := slices.Concat(to, from)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_ARP)
	for _, field := range []uint16{ethernet, ip4, 6<<8 | 4, request} {
		frame = binary.BigEndian.AppendUint16(frame, field)
	}
	return slices.Concat(frame, from, sender.AsSlice(), make([]byte, 6), target.AsSlice())
}
