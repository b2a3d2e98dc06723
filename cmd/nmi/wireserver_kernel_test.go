package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"github.com/podid-io/podid/internal/testnet"
)

// wireServer is the address of Azure's WireServer. Here it is on the machine that is the node's
// router.
const wireServer = "168.63.129.16"

// serveWire serves as the WireServer does: the goal state on 80, artifacts on 32526, DNS on 53.
func (n *farNode) serveWire() {
	n.outside.Address(n.t, "lo", wireServer+"/32")
	for _, port := range []string{"80", "32526", "53"} {
		n.serveIn(n.outside, net.JoinHostPort(wireServer, port), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "goalstate")
		}))
	}
}

// wantWire checks which ports of the WireServer answer a client. The others must refuse at once.
func (n *farNode) wantWire(from *testnet.Net, who string, open ...string) {
	n.t.Helper()
	answers := map[string]bool{}
	for _, port := range open {
		answers[port] = true
	}
	for _, port := range []string{"80", "32526", "53"} {
		status, _, err := n.get(from, net.JoinHostPort(wireServer, port), "/machine?comp=goalstate")
		switch {
		case answers[port] && (err != nil || status != 200):
			n.t.Errorf("%s, port %s: %d %v, want an answer", who, port, status, err)
		case !answers[port] && !errors.Is(err, syscall.ECONNREFUSED):
			n.t.Errorf("%s, port %s: %d %v, want connection refused", who, port, status, err)
		}
	}
}

// TestWireServer: a pod requests the machine's configuration from the WireServer: while the agent
// runs, after it stopped, after another program removed the rules, and after the cleanup. Processes
// of the node always reach it.
func TestWireServer(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	n.serveWire()
	n.wantWire(n.web, "pod without an agent", "80", "32526", "53")

	p := n.start()
	n.probe("/readyz", 200, "ok")
	n.wantWire(n.web, "pod", "53")
	n.wantWire(n.node.node, "process of the node", "80", "32526", "53")
	n.want(n.web, tokenURL, 200, "access_token")

	n.flushForward()
	p.saysTimes(saysPlaced, 2)
	n.wantWire(n.web, "pod after the rules were removed", "53")

	p.stop(syscall.SIGKILL)
	n.wantWire(n.web, "pod after the agent", "53")

	n.cleanUp()
	n.wantWire(n.web, "pod after the clean-up", "80", "32526", "53")
}

// TestWireServerOpen: the flag opens the WireServer.
func TestWireServerOpen(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	n.serveWire()
	n.start("--block-wireserver=false")
	n.probe("/readyz", 200, "ok")
	n.wantWire(n.web, "pod", "80", "32526", "53")
	if _, _, err := n.get(n.web, "169.254.169.254:81", "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("another port of the metadata service: %v, want connection refused", err)
	}
}

// flushForward removes the rules of the forward chain, as another program may.
func (n *farNode) flushForward() {
	n.t.Helper()
	table := &nftables.Table{Name: "podid", Family: nftables.TableFamilyIPv4}
	changeTables(n.t, n.node.node, func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Name: "forward", Table: table}) })
}

// cleanUp runs nmi --cleanup in the node's namespace.
func (n *farNode) cleanUp() {
	n.t.Helper()
	p := n.start("--cleanup")
	if err := <-p.exited; err != nil {
		n.t.Errorf("nmi --cleanup: %v\n%s", err, p.log)
	}
	p.exited <- nil
}
