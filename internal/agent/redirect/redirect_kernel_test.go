// What the redirect does to packets, with a real kernel in temporary namespaces.

package redirect

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
)

// each runs a test for every topology.
func each(t *testing.T, test func(t *testing.T, n *network)) {
	for _, top := range topologies() {
		t.Run(top.name, func(t *testing.T) { test(t, newNetwork(t, top)) })
	}
}

func (n *network) wantBody(want, got string, err error) {
	n.t.Helper()
	if err != nil || got != want {
		n.t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestWithoutRedirect(t *testing.T) {
	each(t, func(_ *testing.T, n *network) { // otherwise the tests below prove nothing
		body, err := get(n.pod, imds)
		n.wantBody("metadata service", body, err)
	})
}

func TestDiverted(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		n.nothingLeaks(func() {
			body, err := get(n.pod, imds)
			n.wantBody("agent sees "+podIP, body, err)
		})
	})
}

func TestOtherWaysClosed(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		n.nothingLeaks(func() {
			n.wantRefused(n.pod, "tcp4", DefaultMetadataIP+":8080")
			n.wantRefused(n.pod, "udp4", DefaultMetadataIP+":80")
			n.wantRefused(n.pod, "udp4", DefaultMetadataIP+":53")
			n.wantRefused(n.pod, "tcp4", DefaultAgentIP+":2579")
			n.wantRefused(n.pod, "tcp4", DefaultAgentIP+":22")
			n.wantRefused(n.pod, "udp4", DefaultAgentIP+":2579")
		})
		n.wantRefused(n.outside, "tcp4", DefaultAgentIP+":2579")
		n.wantRefused(n.outside, "udp4", DefaultAgentIP+":2579")
		n.wantRefused(n.pod, "tcp4", nodeIP+":2579") // the agent listens at no port of the node's own address
	})
}

func TestOthersUnchanged(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		n.serve(n.node, nodeIP+":80", func(net.Addr) string { return "node" })

		body, err := get(n.pod, outsideIP+":80")
		n.wantBody("metadata service", body, err)
		body, err = get(n.pod, nodeIP+":80")
		n.wantBody("node", body, err)
		body, err = get(n.node, imds) // host processes, host-network pods, the agent itself
		n.wantBody("metadata service", body, err)
		body, err = get(n.node, DefaultAgentIP+":2579")
		n.wantBody("agent sees "+DefaultAgentIP, body, err)
	})
}

func TestServiceOnNode(t *testing.T) {
	each(t, func(_ *testing.T, n *network) { // test networks have the metadata address on the node itself
		n.node.Address(n.t, "lo", DefaultMetadataIP+"/32")
		n.serve(n.node, imds, func(net.Addr) string { return "local metadata service" })
		n.serve(n.node, DefaultMetadataIP+":8080", func(net.Addr) string { return "local metadata service" })
		open, err := dial(n.pod, "tcp4", imds)
		if err != nil {
			n.t.Fatal(err)
		}
		defer closing(open)
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)

		body, err := get(n.pod, imds)
		n.wantBody("agent sees "+podIP, body, err)
		n.wantRefused(n.pod, "tcp4", DefaultMetadataIP+":8080")
		body, err = ask(open)
		if !errors.Is(err, syscall.ECONNRESET) {
			n.t.Errorf("connection from before the redirect: got %q, %v, want a reset", body, err)
		}
		body, err = get(n.node, imds)
		n.wantBody("local metadata service", body, err)
	})
}

func TestAgentGone(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		r, stop := n.agent("agent", testConfig())
		n.ensure(r)
		stop()
		n.nothingLeaks(func() { n.wantRefused(n.pod, "tcp4", imds) })
	})
}

func TestAddressGone(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		n.in(n.node, func() error { return deleteAddress(r.config.AgentIP) })
		n.nothingLeaks(func() {
			// Behind a bridge the pod gets no reset (the kernel sends it without undoing the nat).
			_ = n.pod.Do(func() error {
				if conn, err := net.DialTimeout("tcp4", imds, 300*time.Millisecond); err == nil {
					n.t.Error("connected")
					return conn.Close()
				}
				return nil
			})
		})
	})
}

func TestOpenBefore(t *testing.T) {
	each(t, func(_ *testing.T, n *network) {
		r, _ := n.agent("agent", testConfig())
		open, err := dial(n.pod, "tcp4", imds)
		if err != nil {
			n.t.Fatal(err)
		}
		defer closing(open)
		n.ensure(r)
		n.nothingLeaks(func() {
			if body, err := ask(open); !errors.Is(err, syscall.ECONNRESET) {
				n.t.Errorf("got %q, %v, want a reset", body, err)
			}
		})
		if asked := n.asked.Load(); asked != 0 {
			n.t.Errorf("the metadata service got %d requests", asked)
		}
	})
}

func TestAnswerFromBefore(t *testing.T) {
	each(t, func(_ *testing.T, n *network) { // requested before the redirect, answered after
		var l net.Listener
		n.in(n.outside, func() (err error) { l, err = net.Listen("tcp4", DefaultMetadataIP+":8000"); return err })
		defer closing(l)
		client, err := dial(n.pod, "tcp4", l.Addr().String())
		if err != nil {
			n.t.Fatal(err)
		}
		defer closing(client)
		server, err := l.Accept()
		if err != nil {
			n.t.Fatal(err)
		}
		defer closing(server)
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		if _, err := io.WriteString(server, "secret"); err != nil {
			n.t.Fatal(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if got, err := client.Read(make([]byte, 10)); got != 0 {
			n.t.Errorf("received %d bytes of the response (%v)", got, err)
		}
	})
}

func TestOtherNat(t *testing.T) {
	each(t, func(_ *testing.T, n *network) { // kube-proxy and network plugins translate addresses at the usual priority
		elsewhere := testConfig().AgentIP.As4()
		copy(elsewhere[:], []byte{10, 0, 0, 1})
		table := &nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4}
		prerouting := &nftables.Chain{
			Name: "PREROUTING", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		}
		n.in(n.node, func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			conn.AddTable(table)
			conn.AddChain(prerouting)
			conn.AddRule(&nftables.Rule{Table: table, Chain: prerouting, Exprs: join(
				destination(testConfig().MetadataIP.As4()), tcp(), divertTo(elsewhere, 80),
			)})
			return conn.Flush()
		})
		r, _ := n.agent("agent", testConfig())
		n.ensure(r)
		n.nothingLeaks(func() {
			body, err := get(n.pod, imds)
			n.wantBody("agent sees "+podIP, body, err)
		})
	})
}
