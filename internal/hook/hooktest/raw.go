// The ways in which a program with NET_RAW can send without connecting.

package hooktest

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Raw returns the names of the ways to send packets to the metadata service without a connect, all
// but XDP. A client answers "sent".
func Raw() []string {
	var names []string
	for _, s := range senders() {
		if s.name != XDP {
			names = append(names, s.name)
		}
	}
	return names
}

// tagged ends the names of ways with VLAN tags.
const tagged = ", tagged"

// Tagged reports whether a way to send puts VLAN tags on packets. No router forwards them; a bridge
// does.
func Tagged(way string) bool { return strings.HasSuffix(way, tagged) }

// pastTC is in the names of ways past the traffic control of the interface.
const pastTC = ", past tc"

// PastTC reports whether a way to send avoids the traffic control of the interface, and with it all
// programs there (PACKET_QDISC_BYPASS).
func PastTC(way string) bool { return strings.Contains(way, pastTC) }

type sender struct {
	name string
	send func() error
}

func senders() []sender {
	all := []sender{{"SOCK_RAW", sendRaw}, {XDP, sendXDP}}
	for name, options := range map[string][]int{"AF_PACKET": nil, "AF_PACKET" + pastTC: {unix.PACKET_QDISC_BYPASS}} {
		frame := func(protocol uint16, tags ...uint16) func() error {
			return func() error { return sendFrame(options, protocol, tags...) }
		}
		all = append(all,
			sender{name, func() error { return sendPacket(options, syn()) }},
			sender{name + ", IP options", func() error { return sendPacket(options, withOptions(syn())) }},
			sender{name + ", later fragment", func() error { return sendPacket(options, laterFragment(syn())) }},
			sender{name + ", own frame", frame(unix.ETH_P_IP)},
			sender{name + ", forged protocol", frame(unix.ETH_P_IPV6)},
			sender{name + ", 802.1Q" + tagged, frame(unix.ETH_P_8021Q, unix.ETH_P_8021Q)},
			sender{name + ", 802.1ad" + tagged, frame(unix.ETH_P_8021AD, unix.ETH_P_8021AD)},
			sender{name + ", 802.1Q in 802.1ad" + tagged, frame(unix.ETH_P_8021AD, unix.ETH_P_8021AD, unix.ETH_P_8021Q)},
			sender{name + ", forged protocol, 802.1Q" + tagged, frame(unix.ETH_P_IPV6, unix.ETH_P_8021Q)},
			sender{
				name + ", forged protocol, 802.1Q in 802.1ad" + tagged,
				frame(unix.ETH_P_IPV6, unix.ETH_P_8021AD, unix.ETH_P_8021Q),
			},
		)
	}
	return all
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

// sendRaw sends a SYN by a raw socket.
func sendRaw() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW) // the header is ours
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	to := metadata()
	return unix.Sendto(fd, syn(), 0, &unix.SockaddrInet4{Addr: to.Addr})
}

// sendPacket sends an IPv4 packet by a packet socket to the gateway.
func sendPacket(options []int, packet []byte) error {
	gateway, err := gatewayAddress()
	if err != nil {
		return err
	}
	return sendLink(unix.SOCK_DGRAM, options, unix.ETH_P_IP, gateway, packet)
}

// sendFrame sends a SYN in an Ethernet frame with VLAN tags by a packet socket to the gateway. The
// protocol is what the kernel is given as the frame's ethertype.
func sendFrame(options []int, protocol uint16, tags ...uint16) error {
	out, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	frame, err := frameToGateway(out, tags...)
	if err != nil {
		return err
	}
	return sendLink(unix.SOCK_RAW, options, protocol, net.HardwareAddr(frame[:6]), frame)
}

// frameToGateway returns an Ethernet frame with VLAN tags and a SYN for the gateway.
func frameToGateway(out *net.Interface, tags ...uint16) ([]byte, error) {
	gateway, err := gatewayAddress()
	if err != nil {
		return nil, err
	}
	frame := append(slices.Clone([]byte(gateway)), out.HardwareAddr...)
	for _, tag := range tags {
		const vlan = 5
		frame = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(frame, tag), vlan)
	}
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
	return append(frame, syn()...), nil
}

// sendLink sends a packet, with or without its link-layer header, by a packet socket with options.
func sendLink(kind int, options []int, protocol uint16, gateway net.HardwareAddr, packet []byte) error {
	out, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, kind, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1); err != nil {
			return err
		}
	}
	to := &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: out.Index, Halen: 6}
	copy(to.Addr[:], gateway)
	return unix.Sendto(fd, packet, 0, to)
}

// gatewayAddress returns the hardware address of the gateway to the metadata service. It sends the
// gateway a datagram so that the kernel asks for it.
func gatewayAddress() (net.HardwareAddr, error) {
	service := metadata()
	routes, err := netlink.RouteGet(service.Addr[:])
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("udp", net.JoinHostPort(routes[0].Gw.String(), "9"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	var found net.HardwareAddr
	err = wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, clientTimeout, true, func(context.Context) (bool, error) {
		_, _ = conn.Write([]byte{0})
		neighbors, err := netlink.NeighList(routes[0].LinkIndex, netlink.FAMILY_V4)
		for _, n := range neighbors {
			if n.IP.Equal(routes[0].Gw) && len(n.HardwareAddr) == 6 {
				found = n.HardwareAddr
			}
		}
		return found != nil, err
	})
	return found, err
}

// syn returns an IPv4 packet with a TCP SYN for the metadata service.
func syn() []byte {
	const ipSize, tcpSize = 20, 20
	p := make([]byte, ipSize+tcpSize)
	to := metadata()
	from := ownAddress()
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], from[:])
	copy(p[16:], to.Addr[:])
	tcp := p[ipSize:]
	binary.BigEndian.PutUint16(tcp[0:], 40000)
	binary.BigEndian.PutUint16(tcp[2:], uint16(to.Port))
	tcp[12], tcp[13] = tcpSize/4<<4, 2 // SYN
	binary.BigEndian.PutUint16(tcp[14:], 1024)
	pseudo := append(append([]byte{}, p[12:20]...), 0, unix.IPPROTO_TCP, 0, tcpSize)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	return finish(p)
}

// withOptions puts four bytes of no-operations behind the IPv4 header.
func withOptions(p []byte) []byte {
	q := append(append([]byte{}, p[:20]...), 1, 1, 1, 1)
	q = append(q, p[20:]...)
	q[0] = 0x46
	return finish(q)
}

// laterFragment makes the packet the second fragment of a larger one.
func laterFragment(p []byte) []byte {
	binary.BigEndian.PutUint16(p[6:], 1)
	return finish(p)
}

// finish fills in length and checksum of the IPv4 header.
func finish(p []byte) []byte {
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], checksum(p[:p[0]&0xf*4]))
	return p
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ownAddress returns the address of eth0.
func ownAddress() (own [4]byte) {
	out, err := net.InterfaceByName("eth0")
	if err != nil {
		return own
	}
	addresses, err := out.Addrs()
	if err != nil {
		return own
	}
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() {
			return prefix.Addr().As4()
		}
	}
	return own
}
