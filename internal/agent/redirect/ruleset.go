// The rules as a value. build returns the desired rules, and diff compares them with those of the
// kernel. Nothing here uses a socket or a clock. String prints rules as `nft list table` does.

package redirect

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is one nftables table of family ip.
type ruleset struct {
	table   string
	dormant bool // has flags: it is switched off or owned by a process, which is never desired
	chains  []chain
}

// chain is a base chain (with a hook) or one that rules of other chains go to.
type chain struct {
	name  string
	hook  *hook
	rules []rule
}

// hook is the place of a base chain in the path of packets. The policy is always accept, because
// packets that no rule matches are not the redirect's concern.
type hook struct {
	kind     nftables.ChainType
	point    nftables.ChainHook
	priority int32
	policy   nftables.ChainPolicy
}

// rule is what the kernel executes, with a comment for readers of the table.
type rule struct {
	exprs   []expr.Any
	comment string
}

// The priorities of the base chains relative to those of other programs.
const (
	// After connection tracking (-200), so that a reset belongs to its connection, and before any
	// destination address changes (-100), so that a packet still has the address its sender wrote.
	guardPriority = -150
	// Before the nat chains of kube-proxy, network plugins and iptables (-100): the first chain that
	// sets a connection's destination wins.
	divertPriority = -110
	// Before the usual filter chains (0), so that no accept or reject of another program comes first.
	refusePriority = -10
)

const (
	guardChain   = "guard"
	divertChain  = "divert"
	inputChain   = "input"
	forwardChain = "forward"
	refuseChain  = "refuse"
)

// build returns the rules that a node needs. The comment of each rule names the packets that it
// matches. All others pass unchanged. So do the packets of the node's own processes, which leave by
// the output hook, or come back by lo if they stay on the node.
func build(c Config, port uint16, g generation) ruleset {
	s := buildRedirect(c, port, g)
	if c.BlockWireServer {
		forward := &s.chains[len(s.chains)-1]
		forward.rules = append(forward.rules, wireServerRules()...)
	}
	return s
}

// wireServerPorts returns the TCP ports at 168.63.129.16 that serve the machine's own
// configuration: the goal state with its certificates and protected settings, and the artifacts of
// extensions. DNS and DHCP use other ports. The load balancer's health probes have the address as
// their source.
func wireServerPorts() []uint16 { return []uint16{80, 32526} }

// wireServerRules returns the rules that refuse packets of pods to the WireServer. They belong in
// the forward chain, after every change of the destination, so that a Service with that address as
// its endpoint is refused too.
func wireServerRules() []rule {
	var rules []rule
	for _, port := range wireServerPorts() {
		rules = append(rules, rule{
			exprs:   join(destination([4]byte{168, 63, 129, 16}), tcpPort(port), refuse()),
			comment: "Azure's WireServer is not for pods",
		})
	}
	return rules
}

// buildRedirect returns the rules that every node needs. The forward chain is the last one.
func buildRedirect(c Config, port uint16, g generation) ruleset {
	metadata, agent := c.MetadataIP.As4(), c.AgentIP.As4()
	return ruleset{table: c.Table, chains: []chain{
		{name: refuseChain, rules: []rule{
			// The sender gets a reset or an ICMP error at once, so that it waits for no timeout. Open
			// connections are cut too.
			{exprs: join(tcp(), counted(), reset())},
			{exprs: join(counted(), unreachable())},
		}},
		{name: guardChain, hook: at(nftables.ChainTypeFilter, nftables.ChainHookPrerouting, guardPriority), rules: []rule{
			// From a pod or another machine directly to the agent. Diverted packets still have the
			// metadata address here, in the connection's first packet and in all later ones.
			{exprs: join(notFromLo(), destination(agent), refuse()), comment: "the agent is reached by the redirect only"},
		}},
		{name: divertChain, hook: at(nftables.ChainTypeNAT, nftables.ChainHookPrerouting, divertPriority), rules: []rule{
			// From a pod to the metadata service. What arrives over lo comes from the node itself.
			{exprs: join(notFromLo(), destination(metadata), tcpPort(c.MetadataPort), counted(), divertTo(agent, port)), comment: g.comment(c.HandoverSecret)},
		}},
		{name: inputChain, hook: at(nftables.ChainTypeFilter, nftables.ChainHookInput, refusePriority), rules: []rule{
			// Not diverted and for this node, which has the metadata address itself, as in test
			// networks. Responses of the real service have that address as their source.
			{exprs: join(notFromLo(), destination(metadata), refuse()), comment: "metadata service, not diverted"},
		}},
		{name: forwardChain, hook: at(nftables.ChainTypeFilter, nftables.ChainHookForward, refusePriority), rules: []rule{
			// Other ports, other protocols, and connections older than the redirect. Diverted packets
			// are for this node and not forwarded.
			{exprs: join(destination(metadata), refuse()), comment: "metadata service, not diverted"},
			// Diverted while the agent's address is missing from lo: must not leave the node.
			{exprs: join(destination(agent), refuse()), comment: "the agent's address left this node"},
			// Responses to requests from before the redirect. The agent's own responses are not
			// forwarded.
			{exprs: join(source(metadata), counted(), drop()), comment: "answer of the metadata service, past the agent"},
		}},
	}}
}

// owner is the agent that wrote the divert rule.
type owner struct {
	generation generation
	secret     string // Config.HandoverSecret
	target     target // where it listens
}

// owner returns the owner of the rules, and whether there is one.
func (s *ruleset) owner() (owner, bool) {
	if s == nil || s.dormant {
		return owner{}, false
	}
	i := slices.IndexFunc(s.chains, func(c chain) bool { return c.name == divertChain })
	if i < 0 || len(s.chains[i].rules) != 1 {
		return owner{}, false
	}
	r := s.chains[i].rules[0]
	g, secret, ok := parseComment(r.comment)
	to, found := divertTarget(r.exprs)
	return owner{g, secret, to}, ok && found
}

// diverted returns the counter of the divert rule.
func (s *ruleset) diverted() (connections uint64) {
	if s == nil {
		return 0
	}
	for _, c := range s.chains {
		for _, r := range c.rules {
			for _, e := range r.exprs {
				if counter, ok := e.(*expr.Counter); ok && c.name == divertChain {
					connections += counter.Packets
				}
			}
		}
	}
	return connections
}

// plan is what has to be written: the whole table, or the rules of some chains.
type plan struct {
	whole  bool
	exists bool // a table of that name exists and has to be deleted first
	chains []string
}

func (p plan) empty() bool { return !p.whole && len(p.chains) == 0 }

func (p plan) names() []string {
	if p.whole {
		return []string{"table"}
	}
	return p.chains
}

// diff returns what has to be written so that the kernel has want. have is nil if there is no such
// table. Rules are compared by their text, which has neither the values of counters nor what
// kernels fill in.
func diff(want ruleset, have *ruleset) plan {
	if have == nil {
		return plan{whole: true}
	}
	if have.dormant {
		return plan{whole: true, exists: true}
	}
	todo := plan{exists: true}
	for _, w := range want.chains {
		i := slices.IndexFunc(have.chains, func(c chain) bool { return c.name == w.name })
		if i < 0 || have.chains[i].head() != w.head() {
			return plan{whole: true, exists: true}
		}
		if have.chains[i].body() != w.body() {
			todo.chains = append(todo.chains, w.name)
		}
	}
	return todo
}

// The parts that rules are made of.

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func at(kind nftables.ChainType, point *nftables.ChainHook, priority int32) *hook {
	return &hook{kind: kind, point: *point, priority: priority, policy: nftables.ChainPolicyAccept}
}

// loIndex is the interface index of lo in every network namespace (LOOPBACK_IFINDEX in the kernel).
const loIndex = 1

func notFromLo() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, loIndex)},
	}
}

// Offsets of the two addresses in the IPv4 header (RFC 791), and of the destination port in the TCP
// header.
const (
	sourceOffset      = 12
	destinationOffset = 16
	portOffset        = 2
)

func destination(ip [4]byte) []expr.Any { return address(destinationOffset, ip) }

func source(ip [4]byte) []expr.Any { return address(sourceOffset, ip) }

func address(offset uint32, ip [4]byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
	}
}

func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

func tcpPort(port uint16) []expr.Any {
	return join(tcp(), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: portOffset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
	})
}

func divertTo(ip [4]byte, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: ip[:]},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}
}

func counted() []expr.Any { return []expr.Any{&expr.Counter{}} }

func reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

// icmpPortUnreachable is the code of RFC 792; a UDP client sees "connection refused".
const icmpPortUnreachable = 3

func unreachable() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func refuse() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuseChain}}
}
