package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/testnet"
)

// The network of a sandbox: what can reach what, and what cannot.
func TestNetwork(t *testing.T) {
	testnet.Require(t)
	p, err := NewPlan(fmt.Sprintf("t%d", os.Getpid()), 2)
	if err != nil {
		t.Fatal(err)
	}
	before := interfaces(t)
	t.Cleanup(func() {
		if err := Down(p.Sandbox); err != nil {
			t.Error(err)
		}
		if left, err := netns.List(Prefix(p.Sandbox)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if after := interfaces(t); after != before {
			t.Errorf("the machine's devices were %s and are %s", before, after)
		}
	})
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}

	nodes := t // what is served to the nodes is needed until the end
	t.Run("metadata service sees the node", func(t *testing.T) {
		serveRemote(t, p.Switch, "169.254.169.254:80")
		for _, n := range p.Nodes {
			if got := ask(t, n.Namespace, "169.254.169.254:80"); got != n.IP.Addr().String() {
				t.Errorf("%s is seen as %s", n.Name, got)
			}
		}
	})
	t.Run("nodes see each other", func(t *testing.T) {
		serveRemote(nodes, p.Nodes[0].Namespace, "10.200.0.10:8080")
		if got := ask(t, p.Nodes[1].Namespace, "10.200.0.10:8080"); got != "10.200.0.11" {
			t.Errorf("node-1 is seen as %s", got)
		}
	})
	t.Run("no way out", func(t *testing.T) {
		err := p.Switch.Do(func() error {
			routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Dst == nil || r.Dst.IP.IsUnspecified() {
					return fmt.Errorf("the switch has a default route: %s", r)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := p.Nodes[0].Namespace.Dial(t.Context(), "tcp", "192.0.2.1:80"); err == nil {
			t.Error("a node reaches an address outside")
		}
	})
	t.Run("a node starts again", func(t *testing.T) {
		before := hardwareAddresses(t, p)
		if err := p.UpNode(p.Nodes[1]); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, p.Nodes[1].Namespace, "10.200.0.10:8080"); got != "10.200.0.11" {
			t.Errorf("node-1 is seen as %s", got)
		}
		if after := hardwareAddresses(t, p); !maps.Equal(after, before) {
			t.Errorf("hardware addresses were %v and are %v: others still send to the old ones", before, after)
		}
	})
}

// hardwareAddresses returns those of the devices with addresses, by namespace.
func hardwareAddresses(t *testing.T, p Plan) map[netns.Namespace]string {
	t.Helper()
	found := map[netns.Namespace]string{}
	devices := map[netns.Namespace]string{p.Switch: Bridge}
	for _, n := range p.Nodes {
		devices[n.Namespace] = "eth0"
	}
	for ns, device := range devices {
		if err := ns.Do(func() error {
			link, err := netlink.LinkByName(device)
			if err == nil {
				found[ns] = link.Attrs().HardwareAddr.String()
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// serveRemote answers every request with the address that it comes from, until the test t ends.
func serveRemote(t *testing.T, ns netns.Namespace, address string) {
	t.Helper()
	var listener net.Listener
	err := ns.Do(func() error {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = fmt.Fprint(w, host)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func ask(t *testing.T, ns netns.Namespace, address string) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: ns.Dial, DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	var who string
	if _, err := fmt.Fscan(answer.Body, &who); err != nil {
		t.Fatal(err)
	}
	return who
}

func interfaces(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return fmt.Sprint(names)
}

// A sandbox whose name starts like another one's is a different sandbox.
func TestNamesake(t *testing.T) {
	testnet.Require(t)
	name := fmt.Sprintf("t%d", os.Getpid())
	own, other := netns.Namespace(Prefix(name)+"switch"), netns.Namespace(Prefix(name+"-2")+"switch")
	for _, n := range []netns.Namespace{own, other} {
		t.Cleanup(func() { _ = n.Delete() })
		if err := n.Create(); err != nil {
			t.Fatal(err)
		}
	}
	if err := Down(name); err != nil {
		t.Fatal(err)
	}
	if own.Exists() || !other.Exists() {
		t.Errorf("its own is there: %t; the other one's: %t", own.Exists(), other.Exists())
	}
}
