// Rules as text, in nft's syntax. The text is made from the expressions that are sent to the kernel
// or read from it, so it shows what the kernel executes. diff compares rules by it.

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

// String returns the table as `nft list table` prints it, but without the values of counters.
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

// head returns the line with the chain's hook, or "" for a chain without one.
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

// body returns the chain's rules, one on each line.
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
		p.terms = append(p.terms, fmt.Sprintf("comment %q", r.comment))
	}
	return strings.Join(p.terms, " ")
}

// printer turns expressions into text. One expression loads a value into a register, and a later
// one compares it. The printer keeps the name of the loaded value for the comparison.
type printer struct {
	terms    []string
	loaded   string            // the name of the value in the register for comparisons
	protocol string            // a comparison of the protocol, not printed yet: "tcp dport 80" implies it
	constant map[uint32][]byte // the values of the other registers
}

// printf adds a term, after a pending comparison of the protocol.
func (p *printer) printf(format string, args ...any) {
	p.flush()
	p.terms = append(p.terms, fmt.Sprintf(format, args...))
}

// flush adds a pending comparison of the protocol, which no later term implies.
func (p *printer) flush() {
	if p.protocol != "" {
		p.terms = append(p.terms, "meta l4proto "+p.protocol)
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
		p.printf("%s", p.nat(e))
	case *expr.Counter:
		p.printf("counter")
	case *expr.Reject:
		p.printf("reject with %s", rejectName(e))
	case *expr.Verdict:
		p.printf("%s", verdictName(e))
	default:
		p.printf("unknown %T", e)
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
		p.printf("%s %s", p.loaded, value)
	case expr.CmpOpNeq:
		p.printf("%s != %s", p.loaded, value)
	default:
		p.printf("%s op%d %s", p.loaded, e.Op, value)
	}
}

// value returns the text of what the loaded value is compared with.
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

// nat returns the text of where a connection is sent. Registers for the end of a range are left out
// if they equal those of its start, because kernels fill them in so.
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

// divertTarget returns where a rule sends the packets that it matches, and whether it does.
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
