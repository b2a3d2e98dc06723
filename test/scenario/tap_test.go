package scenario_test

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/network"
)

// tap counts the packets of pods that arrive at the metadata service. Its table is in the network
// that the nodes are connected to.
const tap = "tap"

// tapMetadata puts the tap in place, in front of everything, unless it is there.
func tapMetadata(s *sandbox.Sandbox) error {
	ns, err := s.Switch()
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		if counter, err := tapCounter(conn); err != nil || counter != nil {
			return err
		}
		pods := netip.MustParsePrefix(network.PodCIDR)
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tap})
		chain := conn.AddChain(&nftables.Chain{
			Name: tap, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		})
		const source, target = 12, 16 // in the IPv4 header
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: uint32(pods.Bits() / 8)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: pods.Addr().AsSlice()[:pods.Bits()/8]},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: target, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{169, 254, 169, 254}},
			&expr.Counter{},
		}})
		return conn.Flush()
	})
}

// tapCounter returns the counter of the tap, or nil if it is not in place.
func tapCounter(conn *nftables.Conn) (*expr.Counter, error) {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tap}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: tap, Table: table})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				return c, nil
			}
		}
	}
	return nil, nil
}

// podPackets returns how many packets of pods have arrived at the metadata service.
func (s *story) podPackets() uint64 {
	s.Helper()
	ns, err := s.sandbox.Switch()
	s.must(err)
	var packets uint64
	s.must(ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		counter, err := tapCounter(conn)
		if err != nil {
			return err
		}
		if counter == nil {
			return fmt.Errorf("the tap is gone")
		}
		packets = counter.Packets
		return nil
	}))
	return packets
}
