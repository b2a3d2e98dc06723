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
	packets            func() uint64 // for the metadata service that left the node
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
	n.packets = n.outside.Count(t, netip.MustParseAddr(metadataIP))
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

func (n *probed) listen(in *testnet.Net, at string) (l net.Listener) {
	n.t.Helper()
	n.do(in, func() (err error) { l, err = net.Listen("tcp4", at); return err })
	n.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (n *probed) serve(l net.Listener, answer string) {
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, answer)
	})}
	go func() { _ = s.Serve(l) }()
	n.t.Cleanup(func() { _ = s.Close() })
}

// fromProbe returns the expressions that match packets of the probe, followed by others.
func fromProbe(then ...expr.Any) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, wireprobe.Interface)
	return append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
	}, then...)
}

// probe sends a probe.
func (n *probed) probe() (p Probed) {
	n.t.Helper()
	n.do(n.node, func() error { p = n.local.Probe(n.t.Context(), question); return nil })
	return p
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
	input := testnet.Hook{Type: nftables.ChainTypeFilter, At: nftables.ChainHookInput}
	for name, tt := range map[string]struct {
		change  func(*probed)
		verdict Verdict
		reason  string
	}{
		"healthy": {func(*probed) {}, Arrives, ""},
		"no redirect": {func(n *probed) {
			n.do(n.node, func() error { return n.local.redirect.Remove(t.Context()) })
		}, Passes, "the node routed it on"},
		"another program diverts first": {func(n *probed) {
			n.serve(n.listen(n.node, "10.0.0.4:8080"), "another agent")
			n.node.Rule(t, "other", testnet.BeforeNAT(), testnet.Divert(netip.MustParseAddr(metadataIP), netip.MustParseAddrPort("10.0.0.4:8080"))...)
		}, Passes, "HTTP/1.1 200 OK"},
		"another program diverts to where nothing listens": {func(n *probed) {
			n.node.Rule(t, "other", testnet.BeforeNAT(), testnet.Divert(netip.MustParseAddr(metadataIP), netip.MustParseAddrPort("10.0.0.4:8080"))...)
		}, Passes, "connection refused"},
		"another program diverts to one that says nothing": {func(n *probed) {
			n.listen(n.node, "10.0.0.4:8080")
			n.node.Rule(t, "other", testnet.BeforeNAT(), testnet.Divert(netip.MustParseAddr(metadataIP), netip.MustParseAddrPort("10.0.0.4:8080"))...)
		}, Passes, "nothing was answered"},
		"connections are not tracked": {func(n *probed) {
			raw := testnet.Hook{Type: nftables.ChainTypeFilter, At: nftables.ChainHookPrerouting, Priority: -300}
			n.node.Rule(t, "other", raw, testnet.To(netip.MustParseAddr(metadataIP), &expr.Notrack{})...)
		}, Passes, "the node routed it on"},
		"a firewall drops interfaces that it does not know": {func(n *probed) {
			n.node.Rule(t, "other", input, fromProbe(&expr.Verdict{Kind: expr.VerdictDrop})...)
		}, Unknown, "no answer"},
		"a firewall refuses interfaces that it does not know": {func(n *probed) {
			n.node.Rule(t, "other", input, fromProbe(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3})...)
		}, Unknown, "ICMP type 3, code 3"},
		"a firewall resets what comes from interfaces that it does not know": {func(n *probed) {
			n.node.Rule(t, "other", input, fromProbe(
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
			)...)
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
