// Rules of other programs.

package testnet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Hook is the place of a rule: in a base chain of this type, hook and priority.
type Hook struct {
	Type     nftables.ChainType
	At       *nftables.ChainHook
	Priority int
}

// Rule adds an nftables table with one chain and one rule, as another program would. The caller may
// remove it before the test ends.
func (n *Net) Rule(t testing.TB, table string, hook Hook, exprs ...expr.Any) (remove func()) {
	t.Helper()
	of := &nftables.Table{Name: table, Family: nftables.TableFamilyIPv4}
	n.nftables(t, "add table "+table, func(c *nftables.Conn) {
		c.AddTable(of)
		chain := c.AddChain(&nftables.Chain{
			Name: "chain", Table: of, Type: hook.Type, Hooknum: hook.At,
			Priority: new(nftables.ChainPriority(hook.Priority)), //nolint:gosec // a test's own
		})
		c.AddRule(&nftables.Rule{Table: of, Chain: chain, Exprs: exprs})
	})
	return func() {
		t.Helper()
		n.nftables(t, "delete table "+table, func(c *nftables.Conn) { c.DelTable(of) })
	}
}

func (n *Net) nftables(t testing.TB, act string, f func(*nftables.Conn)) {
	t.Helper()
	must(t, act, n.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		f(c)
		return c.Flush()
	}))
}

// To returns the expressions that match packets to an address, followed by others.
func To(address netip.Addr, then ...expr.Any) []expr.Any {
	return append([]expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address.AsSlice()},
	}, then...)
}

// Divert returns the expressions that divert packets to an address to another one.
func Divert(address netip.Addr, to netip.AddrPort) []expr.Any {
	return To(address,
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	)
}

// BeforeNAT is the place of a program that diverts before others do.
func BeforeNAT() Hook { return Hook{nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -150} }

// Count counts the packets to an address that arrive in the namespace.
func (n *Net) Count(t testing.TB, address netip.Addr) (packets func() uint64) {
	t.Helper()
	const table = "count"
	n.Rule(t, table, Hook{nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300}, To(address, &expr.Counter{})...)
	return func() (packets uint64) {
		t.Helper()
		n.nftables(t, "read counter", func(c *nftables.Conn) {
			of := &nftables.Table{Name: table, Family: nftables.TableFamilyIPv4}
			rules, err := c.GetRules(of, &nftables.Chain{Name: "chain", Table: of})
			must(t, "read counter", err)
			for _, r := range rules {
				for _, e := range r.Exprs {
					if counter, ok := e.(*expr.Counter); ok {
						packets += counter.Packets
					}
				}
			}
		})
		return packets
	}
}
