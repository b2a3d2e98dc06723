// What neighbors of a pod get that can send and read any packet.

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testnet"
)

// theft is what neighbors got of what a pod asks for.
type theft struct {
	forged  int // answers with a token to requests from the pod's address
	between int // packets with the pod's token, read between the pod and the node
	asked   int // packets of the pod to the metadata service there, which another could answer
	node    int // packets with the pod's token, read on the node's interfaces
}

// TestNeighbors: neighbors behind a bridge, and on the node's network, get nothing of what a pod
// asks for and is answered. Without an agent they get all of it.
func TestNeighbors(t *testing.T) {
	for name, c := range map[string]struct {
		own   string
		tries int
	}{"no agent": {ofNode, 10}, "require": {ofWeb, 1000}} {
		t.Run(name, func(t *testing.T) {
			n := newPlaneNode(t, "bridge")
			n.addressed("web", uidWeb, "10.244.0.2")
			n.addressed("api", uidAPI, "10.244.0.3")
			if c.own == ofWeb {
				n.start(append(n.flags(), "--capture=require")...)
				n.probe("/readyz", 200, "ok")
				n.cache(t) // the agent's own request for the token is on the node's network
			}
			own, got := n.steal(t, c.own, c.tries)
			t.Logf("%s, %d tries: the pod got %d tokens; stolen: %+v", name, c.tries, own, got)
			if own != c.tries {
				t.Errorf("the pod got %d tokens of %d", own, c.tries)
			}
			all := got.forged == c.tries && got.between >= c.tries && got.asked >= c.tries && got.node >= c.tries
			if c.own == ofNode && !all || c.own == ofWeb && got != (theft{}) {
				t.Errorf("stolen: %+v", got)
			}
		})
	}
}

// steal lets the pod web ask for its token while the pod api stands between it and the node, and
// then api ask from web's address.
func (n *planeNode) steal(t *testing.T, wanted string, tries int) (own int, got theft) {
	t.Helper()
	victim := netip.MustParseAddr("10.244.0.2")
	n.standBetween(t, victim)
	node, between, asked := hooktest.NewSniffer(t, n.node.node, tokenOf(wanted)), hooktest.NewSniffer(t, n.api, tokenOf(wanted)), hooktest.NewTap(t, n.api)
	web := hooktest.Caller{In: n.web, Group: n.groupWeb, Target: tokenURL}
	for answer, times := range web.Repeat(t, "connect", tries) {
		if meaning(answer) == wanted {
			own += times
		}
	}
	got.node, got.between = node.Count(t), between.Count(t) // after that, asked has read all as well
	for _, from := range asked.Sources() {
		if from == victim {
			got.asked++
		}
	}
	n.api.Address(t, "eth0", victim.String()+"/32")
	for range tries {
		if strings.HasPrefix(n.forge(victim), "token") {
			got.forged++
		}
	}
	return own, got
}

// standBetween makes the pod api forward what the victim and the node send each other.
func (n *planeNode) standBetween(t *testing.T, victim netip.Addr) {
	t.Helper()
	gateway := netip.MustParseAddr("10.244.0.1")
	n.api.Sysctl(t, "ipv4/ip_forward", "1")
	for _, pod := range []*testnet.Net{n.web, n.api} {
		pod.Sysctl(t, "ipv4/conf/all/send_redirects", "0")
		pod.Sysctl(t, "ipv4/conf/eth0/send_redirects", "0")
		pod.Sysctl(t, "ipv4/conf/all/rp_filter", "0")
		pod.Sysctl(t, "ipv4/conf/eth0/rp_filter", "0")
	}
	n.web.Sysctl(t, "ipv4/neigh/eth0/locktime", "0") // a lie is believed at once, as without it some time later
	n.node.node.Sysctl(t, "ipv4/neigh/cni0/locktime", "0")
	liar := hooktest.Station{In: n.api, Link: "eth0", Address: netip.MustParseAddr("10.244.0.3")}
	hooktest.Impersonate(t, liar, hooktest.Station{In: n.web, Link: "eth0", Address: victim}, gateway)
	hooktest.Impersonate(t, liar, hooktest.Station{In: n.node.node, Link: "cni0", Address: gateway}, victim)
}

// forge asks in the network of the pod api, from another address. A pod's program can do the same
// by packets of its own; here the kernel makes them, for a process that is in no pod.
func (n *planeNode) forge(from netip.Addr) string {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: time.Second}
	var conn net.Conn
	err := n.api.Do(func() (err error) {
		conn, err = dialer.DialContext(context.Background(), "tcp4", metadataService)
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n", tokenURL); err != nil {
		return err.Error()
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return meaning(string(body))
}
