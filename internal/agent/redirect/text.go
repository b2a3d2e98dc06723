// Rules as text, in the words of nft. The text is made from the very expressions that are sent to, or came
// from, the kernel, so what is printed is what is run. diff compares by it.

package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// String prints the table as `nft list table` does, with counters shown without their values.
func (s ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s {\n", s.table)
	if s.dormant {
		b.WriteString("\tflags dormant\n")
	}
	for i, c := range s.chains {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n%s%s\t}\n", c.name, c.head(), c.body())
	}
	b.WriteString("}\n")
	return b.String()
}

// head is the line about the chain's place; empty for one that is only gone to.
func (c chain) head() string {
	if c.hook == nil {
		return ""
	}
	policy := "accept"
	if c.hook.policy != nftables.ChainPolicyAccept {
		policy = "drop"
	}
	return fmt.Sprintf("\t\ttype %s hook %s priority %d; policy %s;\n",
		c.hook.kind, hookName(c.hook.point), c.hook.priority, policy)
}

func hookName(h nftables.ChainHook) string {
	switch h {
	case *nftables.ChainHookPrerouting:
		return "prerouting"
	case *nftables.ChainHookInput:
		return "input"
	case *nftables.ChainHookForward:
		return "forward"
	default:
		return fmt.Sprint(uint32(h))
	}
}

// body is the chain's rules, a line each.
func (c chain) body() string {
	var b strings.Builder
	for _, r := range c.rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	return b.String()
}

func (r rule) String() string {
	p := printer{}
	for _, e := range r.exprs {
		p.add(e)
	}
	p.flush()
	if r.comment != "" {
		p.words = append(p.words, fmt.Sprintf("comment %q", r.comment))
	}
	return strings.Join(p.words, " ")
}

// printer turns expressions into words. The kernel loads a value into a register and compares it in the
// next step; the printer remembers what was loaded to name it.
type printer struct {
	words    []string
	loaded   string            // what the comparing register holds
	protocol string            // a comparison of the protocol, held back: "tcp dport 80" implies it
	constant map[uint32][]byte // what the other registers hold
}

func (p *printer) say(format string, args ...any) {
	p.flush()
	p.words = append(p.words, fmt.Sprintf(format, args...))
}

// flush says a protocol that nothing later implied.
func (p *printer) flush() {
	if p.protocol != "" {
		p.words = append(p.words, "meta l4proto "+p.protocol)
		p.protocol = ""
	}
}

func (p *printer) add(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		p.loaded = metaName(e)
	case *expr.Payload:
		p.loaded = payloadName(e)
	case *expr.Cmp:
		p.compare(e)
	case *expr.Immediate:
		if p.constant == nil {
			p.constant = map[uint32][]byte{}
		}
		p.constant[e.Register] = e.Data
	case *expr.NAT:
		p.say("%s", p.nat(e))
	case *expr.Counter:
		p.say("counter")
	case *expr.Reject:
		p.say("reject with %s", rejectName(e))
	case *expr.Verdict:
		p.say("%s", verdictName(e))
	default:
		p.say("unknown %T", e)
	}
}

func metaName(e *expr.Meta) string {
	switch {
	case e.SourceRegister:
		return fmt.Sprintf("meta set %d", e.Key)
	case e.Key == expr.MetaKeyIIF:
		return "iif"
	case e.Key == expr.MetaKeyL4PROTO:
		return "meta l4proto"
	default:
		return fmt.Sprintf("meta %d", e.Key)
	}
}

func payloadName(e *expr.Payload) string {
	load := [3]uint32{uint32(e.Base), e.Offset, e.Len}
	switch {
	case e.OperationType != expr.PayloadLoad:
		return fmt.Sprintf("write @%d,%d,%d", e.Base, e.Offset, e.Len)
	case load == [3]uint32{uint32(expr.PayloadBaseNetworkHeader), sourceOffset, 4}:
		return "ip saddr"
	case load == [3]uint32{uint32(expr.PayloadBaseNetworkHeader), destinationOffset, 4}:
		return "ip daddr"
	case load == [3]uint32{uint32(expr.PayloadBaseTransportHeader), portOffset, 2}:
		return "th dport"
	default:
		return fmt.Sprintf("@%d,%d,%d", e.Base, e.Offset, e.Len)
	}
}

func (p *printer) compare(e *expr.Cmp) {
	value := p.value(e.Data)
	switch {
	case p.loaded == "meta l4proto" && e.Op == expr.CmpOpEq:
		p.flush()
		p.protocol = value
		return
	case p.loaded == "th dport" && p.protocol != "":
		p.loaded, p.protocol = p.protocol+" dport", ""
	}
	switch e.Op {
	case expr.CmpOpEq:
		p.say("%s %s", p.loaded, value)
	case expr.CmpOpNeq:
		p.say("%s != %s", p.loaded, value)
	default:
		p.say("%s op%d %s", p.loaded, e.Op, value)
	}
}

// value prints what the loaded thing is compared with.
func (p *printer) value(data []byte) string {
	switch {
	case p.loaded == "iif" && len(data) == 4:
		if index := binary.NativeEndian.Uint32(data); index != loIndex {
			return fmt.Sprint(index)
		}
		return `"lo"`
	case strings.HasPrefix(p.loaded, "ip ") && len(data) == 4:
		return netip.AddrFrom4([4]byte(data)).String()
	case strings.HasSuffix(p.loaded, "dport") && len(data) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(data))
	case p.loaded == "meta l4proto" && len(data) == 1 && data[0] == unix.IPPROTO_TCP:
		return "tcp"
	default:
		return fmt.Sprintf("0x%x", data)
	}
}

// nat prints where a connection is sent. Registers for the end of a range are left out: kernels return
// them filled in, with the register of its start.
func (p *printer) nat(e *expr.NAT) string {
	kind := "snat"
	if e.Type == expr.NATTypeDestNAT {
		kind = "dnat"
	}
	to := fmt.Sprintf("0x%x:0x%x", p.constant[e.RegAddrMin], p.constant[e.RegProtoMin])
	if t, ok := p.target(e); ok {
		to = t.String()
	}
	if e.Random || e.FullyRandom || e.Persistent || e.Prefix ||
		(e.RegAddrMax != 0 && e.RegAddrMax != e.RegAddrMin) || (e.RegProtoMax != 0 && e.RegProtoMax != e.RegProtoMin) {
		to += " with options"
	}
	return kind + " to " + to
}

// target is where packets are sent: an address and a port.
type target = netip.AddrPort

func (p *printer) target(e *expr.NAT) (target, bool) {
	ip, port := p.constant[e.RegAddrMin], p.constant[e.RegProtoMin]
	if e.Type != expr.NATTypeDestNAT || len(ip) != 4 || len(port) != 2 {
		return target{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip)), binary.BigEndian.Uint16(port)), true
}

// divertTarget finds where a rule sends what it matches.
func divertTarget(exprs []expr.Any) (target, bool) {
	p := printer{}
	for _, e := range exprs {
		if nat, ok := e.(*expr.NAT); ok {
			return p.target(nat)
		}
		p.add(e)
	}
	return target{}, false
}

func rejectName(e *expr.Reject) string {
	switch {
	case e.Type == unix.NFT_REJECT_TCP_RST:
		return "tcp reset"
	case e.Type == unix.NFT_REJECT_ICMP_UNREACH && e.Code == icmpPortUnreachable:
		return "icmp port-unreachable"
	default:
		return fmt.Sprintf("type %d code %d", e.Type, e.Code)
	}
}

func verdictName(e *expr.Verdict) string {
	switch e.Kind {
	case expr.VerdictGoto:
		return "goto " + e.Chain
	case expr.VerdictJump:
		return "jump " + e.Chain
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictReturn:
		return "return"
	default:
		return fmt.Sprintf("verdict %d", e.Kind)
	}
}
