// Closing the way past tc: a packet socket with PACKET_QDISC_BYPASS hands its packets to the
// network card, and no program at tc sees them. nftables does, in a chain at an interface's egress
// (Linux 5.16).
//
// nftables cannot see whose socket sends. But packets of the node's own connections have a route,
// and packets of packet sockets have none. Nothing needs a packet socket to reach the metadata
// service. Packets with a route pass tc, and so the guard.

package program

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Each uplink has a table of its own, since a table is replaced as a whole.
const (
	tablePrefix = "podid_guard_"
	egressChain = "egress"
)

func tableOf(u Uplink) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: fmt.Sprintf("%s%d", tablePrefix, u.Index)}
}

// errNoEgress means that there can be no nftables chain at an interface's egress.
var errNoEgress = errors.New("nftables has no egress chains here, or may not be used")

// guardRouteless makes the table of an uplink, or replaces it. It returns errNoEgress if there can
// be none.
func (h *Hook) guardRouteless(u Uplink) error {
	device, err := u.device()
	if err != nil || device == "" {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := tableOf(u)
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: egressChain, Table: table, Device: device, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookEgress, Priority: nftables.ChainPriorityFilter,
	})
	for _, exprs := range routelessRules(h.config) {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	if err := conn.Flush(); err != nil {
		if _, gone := u.device(); gone != nil {
			return gone
		}
		return fmt.Errorf("write nftables table %s: %w", table.Name, noEgress(err))
	}
	return nil
}

// noEgress returns errNoEgress for the errors of kernels without egress chains (before Linux 5.16)
// or without nftables, and where a security module forbids nftables, as on nodes with AKS's eBPF
// host routing. The guard itself needs the same capability, and is in place before.
func noEgress(err error) error {
	for _, lacking := range []error{
		unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT, unix.EINVAL, unix.EPERM, unix.EACCES,
	} {
		if errors.Is(err, lacking) {
			return errNoEgress
		}
	}
	return err
}

// device returns the name of the uplink, or nothing if another interface sends through it, such as
// a bond: the packets that it passes on need not have a route.
func (u Uplink) device() (string, error) {
	on, err := netlink.LinkByIndex(u.Index)
	if err != nil {
		return "", fmt.Errorf("read interface %d: %w", u.Index, err)
	}
	if on.Attrs().MasterIndex != 0 {
		return "", nil
	}
	return on.Attrs().Name, nil
}

// routelessRules returns the rules of a table.
func routelessRules(c Config) [][]expr.Any {
	rules := [][]expr.Any{{ // ends here for packets without a route
		&expr.Meta{Key: expr.MetaKeyRTCLASSID, Register: 1},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}}
	seen := map[netip.Addr]bool{}
	for _, to := range append([]netip.AddrPort{c.Metadata}, c.Closed...) {
		if seen[to.Addr()] {
			continue
		}
		seen[to.Addr()] = true
		for tags := range uint32(maxTags + 1) {
			rules = append(rules, dropRouteless(to.Addr(), tags))
		}
	}
	return rules
}

// dropRouteless drops TCP to an address behind so many VLAN tags. For the kernel the tags of a
// frame with a forged protocol are part of the packet.
func dropRouteless(to netip.Addr, tags uint32) (rule []expr.Any) {
	at := tags * tagSize
	field := func(offset, size uint32, mask, want []byte) {
		rule = append(rule,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
		if mask != nil {
			rule = append(rule,
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
		}
		rule = append(rule, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want})
	}
	if tags > 0 {
		field(at-typeSize, typeSize, nil, binaryutil.BigEndian.PutUint16(unix.ETH_P_IP))
	}
	field(at, 1, []byte{0xf0}, []byte{0x40})
	field(at+ip4Protocol, 1, nil, []byte{unix.IPPROTO_TCP})
	field(at+ip4Destination, 4, nil, to.AsSlice())
	return append(rule, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

// guardedRouteless returns an error if the table of an uplink is not complete.
func (h *Hook) guardedRouteless(u Uplink) error {
	device, err := u.device()
	if err != nil || device == "" {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := tableOf(u)
	rules, err := conn.GetRules(table, &nftables.Chain{Name: egressChain, Table: table})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read nftables table %s: %w", table.Name, err)
	}
	if want := len(routelessRules(h.config)); len(rules) != want {
		return fmt.Errorf("nftables table %s has %d of its %d rules", table.Name, len(rules), want)
	}
	return nil
}

// removeTables removes the tables of all uplinks, or only of those that are gone.
func removeTables(all bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err = noEgress(err); errors.Is(err, errNoEgress) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, table := range tables {
		var u Uplink
		if _, err := fmt.Sscanf(table.Name, tablePrefix+"%d", &u.Index); err != nil {
			continue // another's
		}
		if _, err := u.device(); all || errors.As(err, &netlink.LinkNotFoundError{}) {
			conn.DelTable(table)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables tables: %w", err)
	}
	return nil
}
