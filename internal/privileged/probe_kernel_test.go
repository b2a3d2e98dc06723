package privileged

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/wireprobe"
	"github.com/podid-io/podid/internal/testnet"
)

const metadataIP = "169.254.169.254"

var question = wireprobe.Question{Question: strings.Repeat("0a", 16), Answer: strings.Repeat("1b", 16)}

// probed is a node with strict checks of source addresses, and a machine outside of it with the
// metadata service:
//
//	pod 10.244.0.2 ── node 10.0.0.4 ── outside 10.0.0.1, 169.254.169.254
type probed struct {
	t                  *testing.T
	pod, node, outside *testnet.Net
	local              *Local
	left               *nftables.Rule // counts packets for the metadata service that left the node
}

func newProbed(t *testing.T) *probed {
	testnet.Require(t)
	n := &probed{t: t, pod: testnet.New(t), node: testnet.New(t), outside: testnet.New(t)}
	for _, s := range []string{"all/rp_filter", "default/rp_filter", "all/forwarding"} {
		n.node.Sysctl(t, "ipv4/conf/"+s, "1")
	}
	testnet.Veth(t, n.node, "pod0", n.pod, "eth0")
	n.pod.Address(t, "eth0", "10.244.0.2/24")
	n.node.Address(t, "pod0", "10.244.0.1/24")
	n.pod.Route(t, "0.0.0.0/0", "10.244.0.1", "eth0")
	testnet.Veth(t, n.node, "eth0", n.outside, "eth0")
	n.node.Address(t, "eth0", "10.0.0.4/24")
	n.node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
	n.outside.Address(t, "eth0", "10.0.0.1/24")
	n.outside.Address(t, "lo", metadataIP+"/32")
	n.outside.Route(t, "10.244.0.0/24", "10.0.0.4", "eth0")
	n.serve(n.listen(n.outside, metadataIP+":80"), "metadata service")
	n.in(n.outside, func(c *nftables.Conn) {
		n.left = rule(c, "count", nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, -300, toMetadata(&expr.Counter{})...)
	})
	return n
}

// redirect starts an agent that answers as podid does.
func (n *probed) redirect() {
	n.t.Helper()
	local, err := NewLocal(parsed(n.t), 2579, "", logr.Discard())
	if err != nil {
		n.t.Fatal(err)
	}
	n.local = local
	var l net.Listener
	n.do(n.node, func() (err error) { l, err = local.Listen(n.t.Context()); return err })
	n.serve(l, question.Answer)
	n.do(n.node, func() error { return local.redirect.Ensure(n.t.Context()) })
}

func (n *probed) do(in *testnet.Net, f func() error) {
	n.t.Helper()
	if err := in.Do(f); err != nil {
		n.t.Fatal(err)
	}
}

func (n *probed) in(where *testnet.Net, f func(*nftables.Conn)) {
	n.t.Helper()
	n.do(where, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		f(c)
		return c.Flush()
	})
}

func (n *probed) listen(in *testnet.Net, at string) (l net.Listener) {
	n.t.Helper()
	n.do(in, func() (err error) { l, err = net.Listen("tcp4", at); return err })
	return l
}

func (n *probed) serve(l net.Listener, answer string) {
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, answer)
	})}
	go func() { _ = s.Serve(l) }()
	n.t.Cleanup(func() { _ = s.Close() })
}

// rule adds a rule in a table and a chain of its own.
func rule(c *nftables.Conn, name string, kind nftables.ChainType, hook nftables.ChainHook, priority int, exprs ...expr.Any) *nftables.Rule {
	table := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: &hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority))})
	return c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
}

// toMetadata returns a rule about packets to the metadata service.
func toMetadata(then ...expr.Any) []expr.Any {
	ip := netip.MustParseAddr(metadataIP).As4()
	return append([]expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
	}, then...)
}

// dnat diverts to a port of the node.
func dnat(port uint16) []expr.Any {
	ip := netip.MustParseAddr("10.0.0.4").As4()
	return toMetadata(
		&expr.Immediate{Register: 1, Data: ip[:]},
		&expr.Immediate{Register: 2, Data: []byte{byte(port >> 8), byte(port)}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	)
}

// drop drops what comes in by an interface.
func drop(in string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, in)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// probe sends a probe.
func (n *probed) probe() (p Probed) {
	n.t.Helper()
	n.do(n.node, func() error { p = n.local.Probe(n.t.Context(), question); return nil })
	return p
}

// packets returns how many packets for the metadata service have left the node.
func (n *probed) packets() (packets uint64) {
	n.t.Helper()
	n.do(n.outside, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		rules, err := c.GetRules(n.left.Table, n.left.Chain)
		for _, r := range rules {
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					packets += counter.Packets
				}
			}
		}
		return err
	})
	return packets
}

// wantClean expects that a probe has left no interface, route or neighbor.
func (n *probed) wantClean() {
	n.t.Helper()
	n.do(n.node, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if name := l.Attrs().Name; name != "lo" && name != "eth0" && name != "pod0" {
				err = errors.Join(err, fmt.Errorf("left: %s", name))
			}
		}
		return err
	})
}

// TestProbe: what a probe proves, and that no packet of it leaves the node.
func TestProbe(t *testing.T) {
	prerouting, input := *nftables.ChainHookPrerouting, *nftables.ChainHookInput
	for name, tt := range map[string]struct {
		change  func(*probed)
		verdict Verdict
		reason  string
	}{
		"healthy": {func(*probed) {}, Arrives, ""},
		"no redirect": {func(n *probed) { n.do(n.node, func() error { return n.local.redirect.Remove(t.Context()) }) },
			Passes, "the node routed it on"},
		"another program diverts first": {func(n *probed) {
			n.serve(n.listen(n.node, "10.0.0.4:8080"), "another agent")
			n.in(n.node, func(c *nftables.Conn) { rule(c, "other", nftables.ChainTypeNAT, prerouting, -150, dnat(8080)...) })
		}, Passes, "HTTP/1.1 200 OK"},
		"another program diverts to where nothing listens": {func(n *probed) {
			n.in(n.node, func(c *nftables.Conn) { rule(c, "other", nftables.ChainTypeNAT, prerouting, -150, dnat(8080)...) })
		}, Passes, "connection refused"},
		"another program diverts to one that says nothing": {func(n *probed) {
			n.listen(n.node, "10.0.0.4:8080")
			n.in(n.node, func(c *nftables.Conn) { rule(c, "other", nftables.ChainTypeNAT, prerouting, -150, dnat(8080)...) })
		}, Passes, "nothing was answered"},
		"connections are not tracked": {func(n *probed) {
			n.in(n.node, func(c *nftables.Conn) {
				rule(c, "other", nftables.ChainTypeFilter, prerouting, -300, toMetadata(&expr.Notrack{})...)
			})
		}, Passes, "the node routed it on"},
		"a firewall drops interfaces that it does not know": {func(n *probed) {
			n.in(n.node, func(c *nftables.Conn) {
				rule(c, "other", nftables.ChainTypeFilter, input, 0, drop(wireprobe.Interface)...)
			})
		}, Unknown, "no answer"},
		"a firewall refuses interfaces that it does not know": {func(n *probed) {
			refuse := drop(wireprobe.Interface)
			refuse[2] = &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}
			n.in(n.node, func(c *nftables.Conn) { rule(c, "other", nftables.ChainTypeFilter, input, 0, refuse...) })
		}, Unknown, "ICMP type 3, code 3"},
		"a firewall resets what comes from interfaces that it does not know": {func(n *probed) {
			refuse := append(drop(wireprobe.Interface)[:2], tcpOnly()...)
			n.in(n.node, func(c *nftables.Conn) { rule(c, "other", nftables.ChainTypeFilter, input, 0, refuse...) })
		}, Unknown, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newProbed(t)
			n.redirect()
			tt.change(n)
			if got := n.probe(); got.Verdict != tt.verdict || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("got %q: %q", got.Verdict, got.Reason)
			}
			if left := n.packets(); left != 0 {
				t.Errorf("%d packets for the metadata service left the node", left)
			}
			n.wantClean()
		})
	}
}

func tcpOnly() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}

// TestPacketsCounted: without the redirect, a pod's packet leaves the node and is counted, so that
// the zeros above mean something.
func TestPacketsCounted(t *testing.T) {
	n := newProbed(t)
	n.do(n.pod, func() error {
		c, err := net.DialTimeout("tcp4", metadataIP+":80", time.Minute)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if n.packets() == 0 {
		t.Error("not counted")
	}
}

// TestProbeDuringRoll: an agent that has been replaced proves nothing, and its successor what it
// has.
func TestProbeDuringRoll(t *testing.T) {
	n := newProbed(t)
	n.redirect()
	older := n.local
	n.redirect()
	if got := n.probe(); got.Verdict != Arrives {
		t.Errorf("the newer agent: %+v", got)
	}
	n.local = older
	if got := n.probe(); got.Verdict != Newer {
		t.Errorf("the older agent: %+v", got)
	}
}

// TestProbesAtOnce: probes of several agents wait for each other.
func TestProbesAtOnce(t *testing.T) {
	n := newProbed(t)
	n.redirect()
	results := make(chan Probed)
	for range 4 {
		go func() {
			var p Probed
			_ = n.node.Do(func() error { p = n.local.Probe(t.Context(), question); return nil })
			results <- p
		}()
	}
	for range 4 {
		if got := <-results; got.Verdict != Arrives {
			t.Errorf("%+v", got)
		}
	}
	n.wantClean()
}

// TestProbeUnsent: a probe that could not be sent proves nothing and names what is missing.
func TestProbeUnsent(t *testing.T) {
	n := newProbed(t)
	n.redirect()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.do(n.node, func() error {
		if got := n.local.Probe(ctx, question); got.Verdict != Unknown {
			t.Errorf("canceled: %+v", got)
		}
		if got := n.local.Probe(t.Context(), wireprobe.Question{Question: "a b\r\n", Answer: question.Answer}); got.Verdict != Unknown || !strings.Contains(got.Reason, "32") {
			t.Errorf("another form: %+v", got)
		}
		return nil
	})
	n.wantClean()
}
