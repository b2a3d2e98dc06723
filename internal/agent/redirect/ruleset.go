// The rules as a value: build says what the kernel should hold, diff what of it differs from what it does
// hold. No packet, socket or clock here; String prints them as `nft list table` does.

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
	dormant bool // switched off, or owned by a process: never what we want
	chains  []chain
}

// chain is a base chain (hook set) or one that others go to.
type chain struct {
	name  string
	hook  *hook
	rules []rule
}

// hook says where in the packet's way a base chain sits. The policy is always accept: a packet that no rule
// of ours speaks of is none of our business.
type hook struct {
	kind     nftables.ChainType
	point    nftables.ChainHook
	priority int32
	policy   nftables.ChainPolicy
}

// rule is what the kernel runs, and a word for whoever lists the table.
type rule struct {
	exprs   []expr.Any
	comment string
}

// Where our base chains sit among everybody's.
const (
	// After connection tracking (-200), so that a reset belongs to its connection, and before any
	// destination address changes (-100): here a packet still carries the address its sender wrote.
	guardPriority = -150
	// Before the nat chains of kube-proxy, network plugins and iptables (-100): the first to choose a
	// connection's destination wins.
	divertPriority = -110
	// Before the usual filter chains (0): nobody else's accept or reject comes first.
	refusePriority = -10
)

const (
	guardChain   = "guard"
	divertChain  = "divert"
	inputChain   = "input"
	forwardChain = "forward"
	refuseChain  = "refuse"
)

// build says which rules a node needs. Each comment tells which packet the rule is for; what is not matched
// passes on untouched, as do all packets of the node's own processes (they leave by output, and come back
// by lo when they stay).
func build(c Config, port uint16, g generation) ruleset {
	s := buildRedirect(c, port, g)
	if c.BlockWireServer {
		forward := &s.chains[len(s.chains)-1]
		forward.rules = append(forward.rules, wireServerRules()...)
	}
	return s
}

// wireServerPorts are the TCP ports at 168.63.129.16 that serve the machine's own configuration: the
// goal state with its certificates and protected settings, and the artifacts of extensions. DNS, DHCP and
// the load balancer's health probes use other ports, and the last have the address as their source.
func wireServerPorts() []uint16 { return []uint16{80, 32526} }

// wireServerRules refuse what pods send to the WireServer. They are in the forward chain, after every
// change of the destination, so that a Service with that address as its endpoint is refused too.
func wireServerRules() []rule {
	var rules []rule
	for _, port := range wireServerPorts() {
		rules = append(rules, rule{
			exprs:   join(destination([4]byte{168, 63, 129, 16}), tcpPort(port), refused()),
			comment: "Azure's WireServer is not for pods",
		})
	}
	return rules
}

// buildRedirect returns the rules that every node needs. The forward chain is the last.
func buildRedirect(c Config, port uint16, g generation) ruleset {
	metadata, agent := c.MetadataIP.As4(), c.AgentIP.As4()
	return ruleset{table: c.Table, chains: []chain{
		{name: refuseChain, rules: []rule{
			// At once and to the sender, so that nobody waits for a timeout. Cuts open connections too.
			{exprs: join(tcp(), counted(), reset())},
			{exprs: join(counted(), unreachable())},
		}},
		{name: guardChain, hook: at(nftables.ChainTypeFilter, nftables.ChainHookPrerouting, guardPriority), rules: []rule{
			// From a pod or another machine straight to the agent. Diverted packets still carry the
			// metadata address here, in the connection's first packet and in all later ones.
			{exprs: join(notFromLo(), destination(agent), refused()), comment: "the agent is reached by the redirect only"},
		}},
		{name: divertChain, hook: at(nftables.ChainTypeNAT, nftables.ChainHookPrerouting, divertPriority), rules: []rule{
			// From a pod to the metadata service. Not from the node: over lo it is the node's own.
			{exprs: join(notFromLo(), destination(metadata), tcpPort(c.MetadataPort), counted(), divertTo(agent, port)), comment: g.comment(c.Handover)},
		}},
		{name: inputChain, hook: at(nftables.ChainTypeFilter, nftables.ChainHookInput, refusePriority), rules: []rule{
			// Still for the metadata address although it arrived at this node: the node has that address
			// itself, as test networks do. Answers of the real service come from it, not for it.
			{exprs: join(notFromLo(), destination(metadata), refused()), comment: "metadata service, not diverted"},
		}},
		{name: forwardChain, hook: at(nftables.ChainTypeFilter, nftables.ChainHookForward, refusePriority), rules: []rule{
			// Other ports, other protocols, and connections older than the redirect. Diverted packets end
			// on this node, so none of them comes by here.
			{exprs: join(destination(metadata), refused()), comment: "metadata service, not diverted"},
			// Diverted, but the agent's address is missing from lo: do not ask the network for it.
			{exprs: join(destination(agent), refused()), comment: "the agent's address left this node"},
			// Answers to what was asked before the redirect. The agent's own answers are not forwarded.
			{exprs: join(source(metadata), counted(), drop()), comment: "answer of the metadata service, past the agent"},
		}},
	}}
}

// owner is which agent wrote the divert rule.
type owner struct {
	generation generation
	handover   string // its word for the next one
	target     target // where it listens
}

func (s *ruleset) owner() (owner, bool) {
	if s == nil || s.dormant {
		return owner{}, false
	}
	i := slices.IndexFunc(s.chains, func(c chain) bool { return c.name == divertChain })
	if i < 0 || len(s.chains[i].rules) != 1 {
		return owner{}, false
	}
	r := s.chains[i].rules[0]
	g, handover, ok := parseComment(r.comment)
	to, found := divertTarget(r.exprs)
	return owner{g, handover, to}, ok && found
}

// plan is what has to be written: the whole table anew, or the rules of some chains.
type plan struct {
	whole  bool
	exists bool // a table of that name is there and has to go first
	chains []string
}

func (p plan) empty() bool { return !p.whole && len(p.chains) == 0 }

func (p plan) names() []string {
	if p.whole {
		return []string{"table"}
	}
	return p.chains
}

// diff compares what should be with what is (nil: no such table). Rules are compared by their text, which
// leaves out counters and what kernels fill in by themselves.
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

// The words that rules are made of.

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func at(kind nftables.ChainType, point *nftables.ChainHook, priority int32) *hook {
	return &hook{kind: kind, point: *point, priority: priority, policy: nftables.ChainPolicyAccept}
}

// loIndex is the interface number of lo in every network namespace (LOOPBACK_IFINDEX in the kernel).
const loIndex = 1

func notFromLo() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, loIndex)},
	}
}

// Offsets in the IPv4 header of the two addresses (RFC 791), and in the TCP header of the destination port.
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

func refused() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuseChain}}
}
