// What a pod sends to the metadata service never arrives there, whatever happens to the agent.

package main

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/podid-io/podid/internal/testnet"
)

// farNode is a node whose metadata service is on another machine, as in a cloud. The node has no
// pod yet.
//
//	web 10.244.0.2 ── node 10.0.0.4 ── outside 10.0.0.1, lo 169.254.169.254
type farNode struct {
	*node
	outside *testnet.Net
	leaked  *nftables.Rule
}

func newFarNode(t *testing.T) *farNode {
	testnet.Require(t)
	n := &farNode{node: &node{t: t, node: testnet.New(t), web: testnet.New(t), api: testnet.New(t), kube: newKube()}, outside: testnet.New(t)}
	n.connectCluster()
	testnet.Veth(t, n.node.node, "eth0", n.outside, "eth0")
	n.node.node.Address(t, "eth0", "10.0.0.4/24")
	n.node.node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
	n.node.node.Sysctl(t, "ipv4/ip_forward", "1")
	n.outside.Address(t, "eth0", "10.0.0.1/24")
	n.outside.Address(t, "lo", "169.254.169.254/32")
	n.outside.Route(t, "10.244.0.0/16", "10.0.0.4", "eth0")
	n.serveIn(n.outside, "169.254.169.254:80", http.HandlerFunc(n.metadata))
	n.count()
	return n
}

// connect attaches the pod to the node, as a network plugin does.
func (n *farNode) connect() {
	testnet.Veth(n.t, n.node.node, "pod0", n.web, "eth0")
	n.node.node.Address(n.t, "pod0", "10.244.0.1/24")
	n.web.Address(n.t, "eth0", "10.244.0.2/24")
	n.web.Route(n.t, "0.0.0.0/0", "10.244.0.1", "eth0")
	n.pod("web", "10.244.0.2", "Running")
	n.grant("web")
}

// count starts counting the packets of pods that arrive at the metadata service.
func (n *farNode) count() {
	n.t.Helper()
	table := &nftables.Table{Name: "count", Family: nftables.TableFamilyIPv4}
	chain := &nftables.Chain{
		Name: "pods", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}
	n.leaked = &nftables.Rule{Table: table, Chain: chain}
	pods := netip.MustParsePrefix("10.244.0.0/16").Addr().As4()
	changeTables(n.t, n.outside, func(c *nftables.Conn) {
		c.AddTable(table)
		c.AddChain(chain)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 2}, // of the sender's address
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: pods[:2]},
			&expr.Counter{},
		}})
	})
}

// changeTables changes the rules of nftables in a namespace, in one transaction.
func changeTables(t *testing.T, in *testnet.Net, change func(*nftables.Conn)) {
	t.Helper()
	err := in.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		change(c)
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leaks returns how many packets of pods have arrived.
func (n *farNode) leaks() (packets uint64) {
	n.t.Helper()
	n.must(n.outside.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		rules, err := c.GetRules(n.leaked.Table, n.leaked.Chain)
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
	}))
	return packets
}

// noLeaks expects that no packets of pods have arrived besides those of before.
func (n *farNode) noLeaks(before uint64) {
	n.t.Helper()
	if leaked := n.leaks() - before; leaked != 0 {
		n.t.Errorf("%d packets of the pod reached the metadata service", leaked)
	}
}

func (n *farNode) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// TestClosedAlways kills the agent twenty times while the pod tries every way to the metadata
// service.
func TestClosedAlways(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	if _, _, err := n.get(n.web, metadataService, "/metadata/instance"); err != nil || n.leaks() == 0 {
		t.Fatalf("the pod must reach the service without an agent, else this proves nothing: %v, %d packets", err, n.leaks())
	}
	p := n.start()
	n.probe("/readyz", 200, "ok")
	before := n.leaks()

	stop := make(chan struct{})
	var answered, refused, other atomic.Int64
	var pod sync.WaitGroup
	for range 4 {
		pod.Go(func() { n.hammer(stop, &answered, &refused, &other) })
	}
	pod.Go(func() { n.stray(stop) })
	for i := range 20 {
		signal := syscall.SIGKILL // as the kernel does when memory is short
		if i%7 == 3 {
			signal = syscall.SIGTERM
		}
		p.stop(signal)
		if _, _, err := n.get(n.web, metadataService, tokenURL); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("between two agents: %v, want connection refused", err)
		}
		p = n.start()
		n.probe("/readyz", 200, "ok")
		n.want(n.web, tokenURL, 200, "access_token") // who says ready has the redirect
	}
	close(stop)
	pod.Wait()
	t.Logf("%d requests answered, %d refused, %d cut", answered.Load(), refused.Load(), other.Load())
	n.noLeaks(before)
	if answered.Load() == 0 || refused.Load() == 0 {
		t.Error("the pod did not meet both an agent and none")
	}
}

// hammer sends requests without pause. Each is answered by the agent, refused, or cut off with the
// agent.
func (n *farNode) hammer(stop <-chan struct{}, answered, refused, other *atomic.Int64) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		}
		began := time.Now()
		_, _, err := n.get(n.web, metadataService, tokenURL)
		switch {
		case err == nil:
			answered.Add(1)
		case errors.Is(err, syscall.ECONNREFUSED):
			refused.Add(1)
			if took := time.Since(began); took > 10*time.Second {
				n.t.Errorf("refused after %v only", took)
			}
		default:
			other.Add(1)
		}
	}
}

// stray sends datagrams, and packets to other ports.
func (n *farNode) stray(stop <-chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		}
		_ = n.web.Do(func() error {
			for _, to := range []string{"udp4 169.254.169.254:80", "udp4 169.254.169.254:53", "tcp4 169.254.169.254:8080", "tcp4 169.254.171.79:2579"} {
				network, address, _ := strings.Cut(to, " ")
				c, err := net.DialTimeout(network, address, time.Second)
				if err != nil {
					continue
				}
				if network == "tcp4" {
					n.t.Errorf("connected to %s", address)
				}
				_, _ = c.Write([]byte("x"))
				_ = c.Close()
			}
			return nil
		})
	}
}

// TestBootOrder starts the agent before the node's network plugin, which then removes its rules.
func TestBootOrder(t *testing.T) {
	n := newFarNode(t)
	p := n.start()
	n.probe("/readyz", 200, "ok")
	n.connect() // pods come later
	before := n.leaks()
	n.wantSoon(n.web, tokenURL, 200, "access_token")
	n.noLeaks(before)

	changeTables(t, n.node.node, (*nftables.Conn).FlushRuleset)
	p.saysTimes(saysPlaced, 2)
	before = n.leaks()
	n.want(n.web, tokenURL, 200, "access_token")
	n.noLeaks(before)
}

// TestOldConnections: connections are cut even though --enable-conntrack-deletion is deprecated.
func TestOldConnections(t *testing.T) {
	for _, flag := range []string{"--enable-conntrack-deletion=false", "--enable-conntrack-deletion"} {
		t.Run(flag, func(t *testing.T) {
			n := newFarNode(t)
			n.connect()
			old, err := dialClient(n.web)
			n.must(err)
			defer old.close()
			if _, err := old.ask(true); err != nil {
				t.Fatalf("before there is an agent: %v", err)
			}
			n.start(flag, "--prefetch-resources=") // the test counts the requests
			n.probe("/readyz", 200, "ok")
			asked := n.questions()
			if _, err := old.ask(true); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a connection from before: %v, want a reset", err)
			}
			if n.questions() != asked {
				t.Error("a request reached the metadata service over a connection from before")
			}
			n.want(n.web, tokenURL, 200, "access_token")
		})
	}
}

// TestCleanup: the cleanup removes everything from the node, but not while an agent serves.
func TestCleanup(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	p := n.start()
	n.probe("/readyz", 200, "ok")
	refused := n.start("--cleanup")
	refused.says("nothing was removed: an agent answers at 169.254.171.79:2579")
	if err := <-refused.exited; err == nil {
		t.Error("a cleanup that was refused ended well")
	} else {
		refused.exited <- err
	}
	n.want(n.web, tokenURL, 200, "access_token")

	waiting := n.start("--cleanup", "--cleanup-wait=1m", "--node=")
	p.stop(syscall.SIGTERM)
	waiting.says("removed the redirect")
	n.want(n.web, "/metadata/instance", 200, "compute")
	if n.leaks() == 0 {
		t.Error("the pod was answered by somebody else")
	}
	again := n.start("--cleanup")
	again.says("found no redirect on this node")
}

// TestBootGuard: after a boot, a pod that starts before the agent is refused, and the agent takes
// over the rules. While an agent serves, the guard changes nothing.
func TestBootGuard(t *testing.T) {
	n := newFarNode(t)
	guard := n.start("--boot-guard", "--node=")
	if err := guard.ends(); err != nil {
		t.Fatalf("%v\n%s", err, guard.log)
	}
	n.connect() // the kubelet starts the pods that were there
	if _, _, err := n.get(n.web, metadataService, tokenURL); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before the agent: %v, want connection refused", err)
	}
	n.noLeaks(0)
	n.start()
	n.probe("/readyz", 200, "ok")
	n.wantSoon(n.web, tokenURL, 200, "access_token")

	again := n.start("--boot-guard")
	if err := again.ends(); err != nil {
		t.Errorf("%v\n%s", err, again.log)
	}
	again.says("left the rules to the agent that serves")
	n.want(n.web, tokenURL, 200, "access_token")
	n.noLeaks(0)
}
