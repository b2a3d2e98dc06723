package hostrouting

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/podid-io/podid/internal/testnet"
)

// node is a node with a pod and an uplink. Its netfilter drops everything that it forwards.
type node struct {
	pod, node, outside *testnet.Net
}

func newNode(t *testing.T) *node {
	n := &node{pod: testnet.New(t), node: testnet.New(t), outside: testnet.New(t)}
	testnet.Veth(t, n.node, "pod0", n.pod, "eth0")
	testnet.Veth(t, n.node, "eth0", n.outside, "eth0")
	n.pod.Address(t, "eth0", "10.244.0.2/24")
	n.pod.Route(t, "0.0.0.0/0", "10.244.0.1", "eth0")
	n.node.Address(t, "pod0", "10.244.0.1/24")
	n.node.Address(t, "eth0", "10.0.0.4/24")
	n.node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
	n.node.Sysctl(t, "ipv4/ip_forward", "1")
	n.outside.Address(t, "eth0", "10.0.0.1/24")
	for _, service := range []string{"169.254.169.254/32", "10.96.0.1/32"} {
		n.outside.Address(t, "lo", service)
	}
	n.outside.Route(t, "10.244.0.0/24", "10.0.0.4", "eth0")
	n.do(t, n.node, dropForwarded)
	for _, at := range []struct {
		in      *testnet.Net
		address string
	}{{n.outside, "169.254.169.254:80"}, {n.outside, "10.96.0.1:80"}, {n.node, "10.0.0.4:80"}} {
		n.serve(t, at.in, at.address)
	}
	return n
}

func (n *node) do(t *testing.T, in *testnet.Net, f func() error) {
	t.Helper()
	if err := in.Do(f); err != nil {
		t.Fatal(err)
	}
}

// dropForwarded drops what the pod sends and the node forwards.
func dropForwarded() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "drop"})
	chain := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("pod0\x00")},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return conn.Flush()
}

// serve accepts connections.
func (n *node) serve(t *testing.T, in *testnet.Net, address string) {
	t.Helper()
	var listener net.Listener
	n.do(t, in, func() (err error) {
		listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
}

// reaches reports whether the pod gets an answer.
func (n *node) reaches(t *testing.T, address string, within time.Duration) bool {
	t.Helper()
	var got []byte
	_ = n.pod.Do(func() error {
		conn, err := (&net.Dialer{Timeout: within}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		got, err = io.ReadAll(conn)
		return err
	})
	return string(got) == "hello"
}

// TestPastNetfilter: what a pod sends leaves the node past netfilter, and the node's own services
// and the exceptions do not.
func TestPastNetfilter(t *testing.T) {
	testnet.Require(t)
	const soon, dropped = 10 * time.Second, 500 * time.Millisecond
	n := newNode(t)
	if n.reaches(t, "169.254.169.254:80", dropped) {
		t.Fatal("without the data plane, the pod's packets are not dropped: the test proves nothing")
	}
	n.do(t, n.node, func() error {
		uplink, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		port, err := net.InterfaceByName("pod0")
		if err != nil {
			return err
		}
		program, err := Load(Config{Uplink: uplink.Index, Except: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}})
		if err != nil {
			return err
		}
		defer func() { _ = program.Close() }()
		for range 2 { // the second time, it is there
			if err := Attach(port.Index, program); err != nil {
				return err
			}
		}
		return nil
	})
	if !n.reaches(t, "169.254.169.254:80", soon) {
		t.Error("the metadata service is out of reach")
	}
	if !n.reaches(t, "10.0.0.4:80", soon) {
		t.Error("the node itself is out of reach")
	}
	if n.reaches(t, "10.96.0.1:80", dropped) {
		t.Error("an exception does not meet netfilter")
	}
}
