// The network of the kernel tests: a pod, its node, and a machine outside with a metadata service
// that must never receive anything from the pod.
//
//	pod 10.244.0.2 ── veth, or veth and bridge ── node 10.0.0.4 ── veth ── outside 10.0.0.1
//	                                              lo: agent address        lo: 169.254.169.254

package redirect

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

const (
	podIP     = "10.244.0.2"
	nodeIP    = "10.0.0.4"
	outsideIP = "10.0.0.1"
	imds      = "169.254.169.254:80"

	// testTimeout is how long a test waits for what should happen at once, on a busy machine.
	testTimeout = 10 * time.Second
)

// network is one pod, node and outside machine, with the metadata service running.
type network struct {
	t                  *testing.T
	pod, node, outside *testnet.Net
	asked              atomic.Int64 // connections to the metadata service
}

// topology is how a pod is connected to its node.
type topology struct {
	name    string
	connect func(*network)
}

func topologies() []topology {
	return []topology{
		{"veth", (*network).bareVeth},
		{"bridge", func(n *network) { n.bridge("0") }},
		{"filtered bridge", func(n *network) { n.bridge("1") }},
	}
}

// bareVeth connects the pod as Azure CNI and Calico do. The pod sends everything to a gateway for
// which only the node's proxy ARP answers, and the node has a route to each pod.
func (n *network) bareVeth() {
	testnet.Veth(n.t, n.node, "pod0", n.pod, "eth0")
	n.node.Sysctl(n.t, "ipv4/conf/pod0/proxy_arp", "1")
	n.node.Sysctl(n.t, "ipv4/neigh/pod0/proxy_delay", "0") // otherwise ARP alone takes up to 0.8 s
	n.pod.Address(n.t, "eth0", podIP+"/32")
	n.pod.Route(n.t, "169.254.1.1/32", "", "eth0")
	n.pod.Route(n.t, "0.0.0.0/0", "169.254.1.1", "eth0")
	n.node.Route(n.t, podIP+"/32", "", "pod0")
}

// bridge connects the pod as kubenet and the bridge plugin do. If filtered is "1", bridged packets
// pass netfilter too, which kube-proxy and container runtimes usually set.
func (n *network) bridge(filtered string) {
	testnet.Veth(n.t, n.node, "pod0", n.pod, "eth0")
	n.node.Bridge(n.t, "cni0", "pod0")
	n.node.Address(n.t, "cni0", "10.244.0.1/24")
	n.node.Sysctl(n.t, "bridge/bridge-nf-call-iptables", filtered)
	n.pod.Address(n.t, "eth0", podIP+"/24")
	n.pod.Route(n.t, "0.0.0.0/0", "10.244.0.1", "eth0")
}

func newNetwork(t *testing.T, top topology) *network {
	t.Helper()
	testnet.Require(t)
	n := &network{t: t, pod: testnet.New(t), node: testnet.New(t), outside: testnet.New(t)}
	n.node.Sysctl(t, "ipv4/ip_forward", "1")
	top.connect(n)
	testnet.Veth(t, n.node, "eth0", n.outside, "eth0")
	n.node.Address(t, "eth0", nodeIP+"/24")
	n.node.Route(t, "0.0.0.0/0", outsideIP, "eth0")
	n.outside.Address(t, "eth0", outsideIP+"/24")
	n.outside.Address(t, "lo", "169.254.169.254/32")
	n.outside.Route(t, "10.244.0.0/24", nodeIP, "eth0")
	n.outside.Route(t, DefaultAgentIP+"/32", nodeIP, "eth0")
	if local := n.node.ReadSysctl(t, "ipv4/conf/all/route_localnet"); local != "0" {
		t.Fatalf("route_localnet is %s: the redirect must work without it", local)
	}
	n.serve(n.outside, "0.0.0.0:80", func(net.Addr) string { n.asked.Add(1); return "metadata service" })
	return n
}

// serve runs a web server in a namespace that responds to a client with the result of answer.
func (n *network) serve(in *testnet.Net, address string, answer func(net.Addr) string) {
	n.t.Helper()
	var l net.Listener
	n.in(in, func() (err error) { l, err = net.Listen("tcp4", address); return err })
	serveOn(n.t, l, answer)
}

// serveOn serves on a listener until the test ends or stop is called.
func serveOn(t *testing.T, l net.Listener, answer func(net.Addr) string) (stop func()) {
	type remote struct{}
	s := &http.Server{
		ReadHeaderTimeout: testTimeout,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, remote{}, c.RemoteAddr())
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, answer(req.Context().Value(remote{}).(net.Addr)))
		}),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	stop = func() { _ = s.Close(); <-done }
	t.Cleanup(stop)
	return stop
}

// in runs f in a namespace. An error ends the test.
func (n *network) in(where *testnet.Net, f func() error) {
	n.t.Helper()
	if err := where.Do(f); err != nil {
		n.t.Fatal(err)
	}
}

// dial opens a connection from a namespace.
func dial(from *testnet.Net, protocol, address string) (conn net.Conn, err error) {
	err = from.Do(func() error {
		conn, err = net.DialTimeout(protocol, address, testTimeout)
		return err
	})
	return conn, err
}

// get sends a request on a new connection and returns the body of the response.
func get(from *testnet.Net, address string) (string, error) {
	conn, err := dial(from, "tcp4", address)
	if err != nil {
		return "", err
	}
	defer closing(conn)
	return ask(conn)
}

// ask sends a request on an open connection and returns the body of the response.
func ask(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	response, err := client.Get("http://metadata/")
	if err != nil {
		return "", err
	}
	defer closing(response.Body)
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// closing closes c and ignores the error.
func closing(c io.Closer) { _ = c.Close() }

// wantRefused fails the test unless a connection is refused. A UDP socket returns the error from a
// read.
func (n *network) wantRefused(from *testnet.Net, protocol, address string) {
	n.t.Helper()
	began := time.Now()
	err := func() error {
		conn, err := dial(from, protocol, address)
		if err != nil {
			return err
		}
		defer closing(conn)
		if protocol == "tcp4" {
			return errors.New("connected")
		}
		_ = conn.SetDeadline(time.Now().Add(testTimeout))
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}()
	if !errors.Is(err, syscall.ECONNREFUSED) {
		n.t.Errorf("%s %s: got %v, want connection refused", protocol, address, err)
	}
	n.t.Logf("%s %s refused after %v", protocol, address, time.Since(began))
}

// arrivals counts the packets for one address that arrive at the outside machine.
type arrivals struct {
	n     *network
	table *nftables.Table
	chain *nftables.Chain
}

// countArrivals starts to count the packets for the address.
func (n *network) countArrivals(address string) arrivals {
	n.t.Helper()
	table := &nftables.Table{Name: "count", Family: nftables.TableFamilyIPv4}
	chain := &nftables.Chain{
		Name: strings.ReplaceAll(address, ".", "-"), Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	n.in(n.outside, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddTable(table)
		conn.AddChain(chain)
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: join(
			destination(netip.MustParseAddr(address).As4()), counted(),
		)})
		return conn.Flush()
	})
	return arrivals{n: n, table: table, chain: chain}
}

// packets returns the number of packets since countArrivals.
func (a arrivals) packets() uint64 {
	a.n.t.Helper()
	var packets uint64
	a.n.in(a.n.outside, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		rules, err := conn.GetRules(a.table, a.chain)
		if err != nil {
			return err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok {
					packets += c.Packets
				}
			}
		}
		return nil
	})
	return packets
}

// nothingLeaks fails the test if a packet for the metadata service or the agent left the node
// during f.
func (n *network) nothingLeaks(f func()) {
	n.t.Helper()
	counters := map[string]arrivals{}
	for _, address := range []string{DefaultMetadataIP, DefaultAgentIP} {
		counters[address] = n.countArrivals(address)
	}
	f()
	for address, c := range counters {
		if got := c.packets(); got != 0 {
			n.t.Errorf("%d packets for %s left the node", got, address)
		}
	}
}

// agent starts an agent on the node. Its listener responds with its name and the client's address.
func (n *network) agent(name string, c Config) (r *Redirect, stop func()) {
	n.t.Helper()
	r, err := New(c)
	if err != nil {
		n.t.Fatal(err)
	}
	var l net.Listener
	n.in(n.node, func() (err error) { l, err = r.Listen(n.t.Context()); return err })
	return r, serveOn(n.t, l, func(from net.Addr) string {
		return name + " sees " + from.(*net.TCPAddr).IP.String()
	})
}

func (n *network) ensure(r *Redirect) {
	n.t.Helper()
	n.in(n.node, func() error { return r.Ensure(n.t.Context()) })
}

// run keeps a redirect in place until the test ends or stop is called. It returns after the first
// check. The channel receives the later states.
func (n *network) run(r *Redirect) (states <-chan error, stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	out, done := make(chan error, 100), make(chan struct{})
	go func() {
		defer close(done)
		_ = n.node.Do(func() error {
			r.Run(ctx, time.Hour, func(err error) {
				select {
				case out <- err:
				default:
				}
			})
			return nil
		})
	}()
	stop = func() { cancel(); <-done }
	n.t.Cleanup(stop)
	select {
	case err := <-out:
		if err != nil {
			n.t.Fatal(err)
		}
	case <-time.After(testTimeout):
		n.t.Fatal("Run reported no state")
	}
	return out, stop
}

// handles returns the kernel's handles of the node's rules. A rule that is written again has a new
// one.
func (n *network) handles(table string) (handles []uint64) {
	n.t.Helper()
	n.in(n.node, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		t := &nftables.Table{Name: table, Family: nftables.TableFamilyIPv4}
		for _, name := range []string{refuseChain, guardChain, divertChain, inputChain, forwardChain} {
			rules, err := conn.GetRules(t, &nftables.Chain{Name: name, Table: t})
			if err != nil {
				return err
			}
			for _, r := range rules {
				handles = append(handles, r.Handle)
			}
		}
		return nil
	})
	return handles
}

// withoutCapabilities runs f in the node's namespace on a thread without capabilities.
func (n *network) withoutCapabilities(f func() error) error {
	return n.node.Do(func() error {
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&head, &make([]unix.CapUserData, 2)[0]); err != nil {
			return err
		}
		return f()
	})
}
