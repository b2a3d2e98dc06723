package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/hostrouting"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// attachHostRouting lets what goes from one interface of the node to another pass by its netfilter,
// by a program in the place of Cilium's.
func (n *node) attachHostRouting(from, to string) (detach func()) {
	n.t.Helper()
	index := 0
	do := func(f func() error) {
		n.t.Helper()
		if err := n.node.Do(f); err != nil {
			n.t.Fatal(err)
		}
	}
	do(func() error {
		in, err1 := net.InterfaceByName(from)
		out, err2 := net.InterfaceByName(to)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		p, err := hostrouting.Load(hostrouting.Config{Uplink: out.Index})
		if err != nil {
			return err
		}
		defer func() { _ = p.Close() }() // the filter keeps it
		index = in.Index
		return hostrouting.Attach(in.Index, p)
	})
	return func() {
		n.t.Helper()
		do(func() error {
			return netlink.QdiscDel(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
			}})
		})
	}
}

// ciliumIs waits for what is known of Cilium's host routing.
func (n *node) ciliumIs(known string) {
	n.t.Helper()
	want := fmt.Sprintf("aadpodidentity_nmi_cilium{host_routing=%q} 1\n", known)
	testenv.Eventually(n.t, "what is known of Cilium", func() string {
		_, body, err := n.get(n.node, "127.0.0.1:9090", "/metrics")
		if err != nil || !strings.Contains(body, want) {
			return fmt.Sprintf("no %q in the metrics: %v", want, err)
		}
		return ""
	})
}

// TestCilium: on a node with Cilium, an agent does not claim that pods' requests arrive before one
// has. With eBPF host routing none does, although the probe arrives.
func TestCilium(t *testing.T) {
	n := newFarNode(t)
	n.connect()
	detach := n.attachHostRouting("pod0", "eth0")
	n.attachHostRouting("eth0", "pod0")
	p := n.start("--ipt-update-interval-sec=1")
	n.probe("/readyz", 200, "ok")
	n.ciliumIs("none")
	testnet.Veth(t, n.node.node, "cilium_host", n.node.node, "cilium_net")
	n.ciliumIs("unknown")
	p.says(`cilium status | grep \"Host Routing\"`)

	if _, body, err := n.get(n.web, metadataService, "/metadata/instance?api-version=2021-02-01"); err != nil || !strings.Contains(body, `"compute":"node"`) {
		t.Fatalf("the pod has not reached the metadata service: %q, %v", body, err)
	}
	n.wireProbed("unknown") // it arrives: the node's netfilter is not in the way
	n.ciliumIs("unknown")

	detach()
	n.want(n.web, tokenURL, 200, "access_token")
	n.ciliumIs("legacy")
	n.wireProbed("arrives")
	p.says("Cilium has legacy host routing")
	p.stop(syscall.SIGTERM)
	if got := strings.Count(p.log.String(), "cilium status"); got != 1 {
		t.Errorf("warned %d times", got)
	}
}
