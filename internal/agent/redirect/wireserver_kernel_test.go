package redirect

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const wireServer = "168.63.129.16"

// TestWireServerClosed: pods do not reach the WireServer's ports, neither directly, nor over a
// connection from before the redirect, nor through a Service that has it as its endpoint. Its DNS
// stays reachable, and the node reaches all of its ports.
func TestWireServerClosed(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		n.outside.Address(n.t, "lo", wireServer+"/32")
		for _, port := range []string{"32526", "53"} {
			n.serve(n.outside, wireServer+":"+port, func(net.Addr) string { return "WireServer" })
		}
		service := n.service("10.96.0.1", 80, wireServer)
		body, err := get(n.pod, service)
		n.wantBody("metadata service", body, err) // port 80 of the outside machine, reachable without the redirect
		open, err := dial(n.pod, "tcp4", wireServer+":80")
		if err != nil {
			n.t.Fatal(err)
		}
		defer closing(open)

		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		asked := n.asked.Load()
		n.wantRefused(n.pod, "tcp4", wireServer+":80")
		n.wantRefused(n.pod, "tcp4", wireServer+":32526")
		if body, err := ask(open); !errors.Is(err, syscall.ECONNRESET) {
			n.t.Errorf("connection from before the redirect: got %q, %v, want a reset", body, err)
		}
		// Behind a filtered bridge the pod gets no reset (the kernel sends it without undoing the nat).
		_ = n.pod.Do(func() error {
			if conn, err := net.DialTimeout("tcp4", service, 300*time.Millisecond); err == nil {
				n.t.Error("connected through a Service")
				return conn.Close()
			}
			return nil
		})
		if now := n.asked.Load(); now != asked {
			n.t.Errorf("%d requests of the pod reached the WireServer", now-asked)
		}

		body, err = get(n.pod, wireServer+":53")
		n.wantBody("WireServer", body, err)
		body, err = get(n.node, wireServer+":32526")
		n.wantBody("WireServer", body, err)
	})
}

// service makes the node translate an address to another one, as kube-proxy does for a Service. It
// returns the translated address with its port.
func (n *network) service(from string, port uint16, to string) string {
	n.t.Helper()
	n.in(n.node, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "services", Family: nftables.TableFamilyIPv4})
		chain := c.AddChain(&nftables.Chain{
			Name: "services", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		exprs := destination(netip.MustParseAddr(from).As4())
		exprs = append(exprs, tcpPort(port)...)
		exprs = append(exprs, divertTo(netip.MustParseAddr(to).As4(), port)...)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(exprs, &expr.Counter{})})
		return c.Flush()
	})
	return netip.AddrPortFrom(netip.MustParseAddr(from), port).String()
}
