// Nodes with three kinds of data planes, and what a pod's answer says.

package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testnet"
)

const (
	uidWeb = "00000000-0000-4000-8000-00000000000a"
	uidAPI = "00000000-0000-4000-8000-00000000000b"
)

// planeNode is a node that captures inside pods, with the metadata service on another machine and
// two pods, web and api, which have identities of their own.
//
//	nested 10.99.0.2 ── web 10.244.0.2 ──┐
//	                                     ├─ data plane ── 10.0.0.4 ── outside, 169.254.169.254
//	                    api              ──┘
type planeNode struct {
	*inPods
	outside, nested    *testnet.Net
	groupWeb, groupAPI string // the pods' control groups
	tap                *hooktest.Tap
}

// planes are how packets of pods leave the node.
func planes() map[string]func(*planeNode) {
	return map[string]func(*planeNode){
		"bridge": (*planeNode).bridge,
		"routed": (*planeNode).routed,
		// As Cilium with eBPF host routing: no netfilter, and no way to an address on the node's lo.
		"bypass": (*planeNode).bypass,
	}
}

func newPlaneNode(t *testing.T, plane string) *planeNode {
	t.Helper()
	far := newFarNode(t)
	n := &planeNode{inPods: newInPodsOn(far.node), outside: far.outside, nested: testnet.New(t)}
	testnet.Veth(t, n.node.node, "pod0", n.web, "eth0")
	testnet.Veth(t, n.node.node, "pod1", n.api, "eth0")
	planes()[plane](n)
	n.nest()
	for _, pod := range []*testnet.Net{n.web, n.api} {
		pod.Sysctl(t, "ipv4/tcp_fastopen", "1027") // for clients and servers, without a socket option
	}
	n.groupWeb = n.bound("web", uidWeb, map[string]any{"aadpodidbinding": "web"})
	n.groupAPI = n.bound("api", uidAPI, map[string]any{"aadpodidbinding": "api"})
	n.own("web", "a")
	n.own("api", "b")
	n.namespaces.Add("web", n.web)
	n.namespaces.Add("api", n.api)
	n.node.node.Address(t, "eth0", sentinel.String()+"/24")
	n.tap = hooktest.NewTap(t, n.outside)
	return n
}

func (n *planeNode) bridge() {
	n.node.node.Bridge(n.t, "cni0", "pod0", "pod1")
	n.node.node.Address(n.t, "cni0", "10.244.0.1/16")
	for pod, address := range map[*testnet.Net]string{n.web: "10.244.0.2/16", n.api: "10.244.0.3/16"} {
		pod.Address(n.t, "eth0", address)
		pod.Route(n.t, "0.0.0.0/0", "10.244.0.1", "eth0")
	}
	n.node.node.Route(n.t, "10.99.0.0/24", "10.244.0.2", "cni0")
}

func (n *planeNode) routed() {
	for i, pod := range []*testnet.Net{n.web, n.api} {
		subnet, link := []string{"10.244.0.", "10.244.1."}[i], []string{"pod0", "pod1"}[i]
		n.node.node.Address(n.t, link, subnet+"1/24")
		pod.Address(n.t, "eth0", subnet+"2/24")
		pod.Route(n.t, "0.0.0.0/0", subnet+"1", "eth0")
	}
	n.node.node.Route(n.t, "10.99.0.0/24", "10.244.0.2", "pod0")
}

// bypass is routed, but programs send all that comes from pods to the uplink.
func (n *planeNode) bypass() {
	n.routed()
	err := n.node.node.Do(func() error {
		uplink, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		redirect, err := redirectTo(uplink.Index)
		if err != nil {
			return err
		}
		defer func() { _ = redirect.Close() }() // the filters keep it
		for _, name := range []string{"pod0", "pod1"} {
			if err := atIngress(name, redirect, ofPlane); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// redirectTo returns a program that sends IPv4 packets out by an interface, past the node's own IP
// layer.
func redirectTo(index int) (*ebpf.Program, error) {
	const protocol, accept = 16, 0 // the former in the struct __sk_buff
	ip4 := int32(binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}))
	return tcProgram(
		asm.LoadMem(asm.R2, asm.R1, protocol, asm.Word),
		asm.Mov.Imm(asm.R0, accept),
		asm.JNE.Imm32(asm.R2, ip4, "end"),
		asm.Mov.Imm(asm.R1, int32(index)),
		asm.Mov.Imm(asm.R2, 0), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return().WithSymbol("end"),
	)
}

func tcProgram(code ...asm.Instruction) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "plane", Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
}

// The order of programs at an interface's ingress.
const (
	ofPolicy = iota + 1
	ofPlane
)

// atIngress puts a program at the ingress of an interface of this network namespace.
func atIngress(name string, program *ebpf.Program, priority uint16) error {
	port, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	index := port.Attrs().Index
	err = netlink.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "plane", DirectAction: true,
	})
}

// denyEgress drops all packets of the pod web, as a NetworkPolicy that allows nothing.
func (n *planeNode) denyEgress() {
	n.t.Helper()
	err := n.node.node.Do(func() error {
		const drop = 2
		policy, err := tcProgram(asm.Mov.Imm(asm.R0, drop), asm.Return())
		if err != nil {
			return err
		}
		defer func() { _ = policy.Close() }() // the filter keeps it
		return atIngress("pod0", policy, ofPolicy)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// mesh sends all connections of the pod web that leave it to a proxy in the pod, as a service mesh
// does. No proxy runs.
func (n *planeNode) mesh() {
	n.t.Helper()
	table := &nftables.Table{Name: "mesh", Family: nftables.TableFamilyIPv4}
	chain := &nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	}
	changeTables(n.t, n.web, func(c *nftables.Conn) {
		c.AddTable(table)
		c.AddChain(chain)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{127}},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, 15001)},
			&expr.Redir{RegisterProtoMin: 1},
		}})
	})
}

// nest gives the pod web a network namespace of its own inside, with a way out.
func (n *planeNode) nest() {
	testnet.Veth(n.t, n.web, "nested0", n.nested, "eth0")
	n.web.Address(n.t, "nested0", "10.99.0.1/24")
	n.web.Sysctl(n.t, "ipv4/ip_forward", "1")
	n.nested.Address(n.t, "eth0", "10.99.0.2/24")
	n.nested.Route(n.t, "0.0.0.0/0", "10.99.0.1", "eth0")
	n.outside.Route(n.t, "10.99.0.0/24", "10.0.0.4", "eth0")
}

// own gives a pod an identity that has the pod's name.
func (n *planeNode) own(pod, digit string) {
	const group = "aadpodidentity.k8s.io/v1"
	spec := map[string]any{
		"type": 0, "resourceID": strings.TrimSuffix(identityOne, "one") + pod, "clientID": "11111111-1111-1111-1111-11111111111" + digit,
	}
	reference := map[string]any{"metadata": map[string]any{"name": pod, "namespace": "shop"}, "spec": spec}
	n.kube.apply("azureidentities", group, "AzureIdentity", pod, map[string]any{"spec": spec}, nil)
	n.kube.apply("azureidentitybindings", group, "AzureIdentityBinding", "to-"+pod,
		map[string]any{"spec": map[string]any{"azureIdentity": pod, "selector": pod}}, nil)
	n.kube.apply("azureassignedidentities", group, "AzureAssignedIdentity", pod+"-shop-"+pod, map[string]any{
		"spec":   map[string]any{"pod": pod, "podNamespace": "shop", "nodename": "node-1", "azureIdentityRef": reference},
		"status": map[string]any{"status": "Assigned"},
	}, map[string]any{"nodename": "node-1"})
}

// The meanings of answers.
const (
	ofWeb, ofAPI = "token of web", "token of api"
	ofNode       = "token of the node" // from the metadata service itself
	refusedAt    = "connection refused"
)

// tokenOf returns the token with a meaning.
func tokenOf(meaning string) string {
	id := strings.TrimPrefix(meaning, "token of ")
	if meaning == ofNode {
		id = noIdentity
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"oid":%q}`, id)) + ".s"
}

// meaning returns what an answer is: whose token, or the refusal.
func meaning(answer string) string {
	var token struct{ Access_token string } // its name in JSON
	if json.Unmarshal([]byte(answer), &token) != nil || token.Access_token == "" {
		for id := range strings.FieldsFuncSeq(answer, func(r rune) bool { return strings.ContainsRune(` :,."/()`, r) }) {
			if strings.HasPrefix(id, "PID-") {
				return id
			}
		}
		return answer
	}
	for _, m := range []string{ofWeb, ofAPI, ofNode} {
		if token.Access_token == tokenOf(m) {
			return m
		}
	}
	return "another token"
}

// sentinel is an address of the node from which nothing else is sent. From ofAgent the agent asks
// for tokens. It keeps the connection, on which both ends send probes every 15 seconds.
var sentinel, ofAgent = netip.MustParseAddr("10.0.0.99"), netip.MustParseAddr("10.0.0.4")

// arrived returns from where packets have arrived at the metadata service that the agent has not
// sent, besides the first ones.
func (n *planeNode) arrived(besides int) (from []netip.Addr) {
	n.t.Helper()
	before := n.sentinels()
	err := n.node.node.Do(func() error {
		c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(sentinel, 0)), &net.UDPAddr{IP: net.IPv4(169, 254, 169, 254), Port: 9})
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write([]byte{1})
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	// What was sent before it arrives before it.
	err = wait.PollUntilContextTimeout(n.t.Context(), time.Millisecond, atMost, true, func(context.Context) (bool, error) {
		return n.sentinels() > before, nil
	})
	if err != nil {
		n.t.Fatalf("the sentinel does not arrive: %v", err)
	}
	from = slices.DeleteFunc(n.tap.Sources(), func(a netip.Addr) bool { return a == sentinel || a == ofAgent })
	return from[besides:]
}

func (n *planeNode) sentinels() (count int) {
	for _, a := range n.tap.Sources() {
		if a == sentinel {
			count++
		}
	}
	return count
}
