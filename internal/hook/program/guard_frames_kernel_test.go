package program

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// packetTo returns an IPv4 packet of a protocol to an address and port, with options of that many
// words.
func packetTo(protocol byte, to string, words int) []byte {
	at := netip.MustParseAddrPort(to)
	p := make([]byte, 20+4*words+20)
	p[0], p[9] = byte(0x45+words), protocol
	copy(p[16:], at.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[20+4*words+2:], at.Port())
	return p
}

// framed puts an Ethernet header with these types before a packet. All but the last are VLAN tags.
func framed(packet []byte, types ...uint16) []byte {
	frame := make([]byte, 12)
	for i, t := range types {
		frame = binary.BigEndian.AppendUint16(frame, t)
		if i < len(types)-1 {
			frame = append(frame, 0, 5)
		}
	}
	return append(frame, packet...)
}

// TestFrames: which frames the guard takes for one to the metadata service. It runs with no pods'
// group, so that all sockets are taken for a pod's.
func TestFrames(t *testing.T) {
	const ip, q, ad = unix.ETH_P_IP, unix.ETH_P_8021Q, unix.ETH_P_8021AD
	w := newWorld(t)
	w.hook.config.Pods = 0
	service := packetTo(unix.IPPROTO_TCP, "169.254.169.254:80", 0)
	fragment := slices.Clone(packetTo(unix.IPPROTO_TCP, "169.254.169.254:9", 0))
	fragment[7] = 1
	for _, c := range []struct {
		name   string
		header int32
		frame  []byte
		drop   bool
	}{
		{"plain", etherHeader, framed(service, ip), true},
		{"options", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "169.254.169.254:80", 10), ip), true},
		{"later fragment", etherHeader, framed(fragment, ip), true},
		{"closed service", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "168.63.129.16:32526", 0), ip), true},
		{"802.1Q", etherHeader, framed(service, q, ip), true},
		{"802.1ad", etherHeader, framed(service, ad, ip), true},
		{"802.1Q in 802.1ad", etherHeader, framed(service, ad, q, ip), true},
		{"802.1Q and options", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "169.254.169.254:80", 3), q, ip), true},
		{"802.1Q, later fragment", etherHeader, framed(fragment, q, ip), true},
		{"no ports", etherHeader, framed(service[:20], ip), true},
		{"without header", noHeader, service, true},

		{"three tags", etherHeader, framed(service, q, q, q, ip), false},
		{"IPv6", etherHeader, framed(service, unix.ETH_P_IPV6), false},
		{"UDP", etherHeader, framed(packetTo(unix.IPPROTO_UDP, "169.254.169.254:80", 0), ip), false},
		{"another port", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "169.254.169.254:81", 0), ip), false},
		{"another port, tagged", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "169.254.169.254:81", 0), q, ip), false},
		{"another address", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "10.0.0.1:80", 0), ip), false},
		{"another port of a closed service", etherHeader, framed(packetTo(unix.IPPROTO_TCP, "168.63.129.16:53", 0), ip), false},
		{"another address, without header", noHeader, packetTo(unix.IPPROTO_TCP, "10.0.0.1:80", 0), false},
		{"IPv6, without header", noHeader, append([]byte{0x60}, service[1:]...), false},
		{"short", etherHeader, framed(service[:18], q, ip), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			guard, err := w.hook.newGuard(c.header)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = guard.Close() }()
			verdict, _, err := guard.Test(c.frame)
			if err != nil || (int32(verdict) == verdictDrop) != c.drop {
				t.Errorf("verdict %d, %v, want drop %v", int32(verdict), err, c.drop)
			}
		})
	}
}
