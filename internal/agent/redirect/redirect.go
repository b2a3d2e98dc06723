// Package redirect sends what pods ask of the Azure instance metadata service (169.254.169.254:80) to the
// agent on their node, and keeps every other way to that address closed. docs/redirect.md has each rule and
// which packets it catches.
//
// Two things are put into the node's network and kept there: a link-local /32 on lo that the agent listens
// on, and one nftables table. ruleset.go says what the table holds, kernel.go reads and writes it, run.go
// decides when. Both stay when the agent ends: a node without its agent refuses, it never opens.
//
// The package works in the network namespace of the calling thread. On a node that is the node's own
// (hostNetwork); tests use throw-away ones.
package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"time"
)

// Defaults of Config. The agent's address is link-local, so that it lies in no pod, service or node range; it
// is none of those that others on Azure nodes use (see reserved); and as it never leaves a node, all nodes
// have the same.
const (
	DefaultMetadataIP   = "169.254.169.254"
	DefaultMetadataPort = 80
	DefaultAgentIP      = "169.254.171.79"
	DefaultTable        = "podid"
)

// Config says what is diverted, and to where.
type Config struct {
	MetadataIP   netip.Addr // the address pods ask; IPv4, as Azure's metadata service has no other
	MetadataPort uint16     // the one TCP port that is diverted; every other port and protocol is refused
	AgentIP      netip.Addr // the agent's own address, link-local; put on lo as a /32
	AgentPort    uint16     // where the agent listens; 0 lets Listen choose
	Table        string     // nftables table, family ip; two agents on one node share it (see generation.go)
	// BlockWireServer refuses what pods send to the TCP ports of Azure's WireServer.
	BlockWireServer bool
	// Handover is a word for the agent that comes next, which only who may change the node's network can read: it
	// stands in the rules while this agent has them. Letters and digits, at most 64; empty for none.
	Handover string
}

// Validate tells everything that is wrong with the configuration at once.
func (c Config) Validate() error {
	var errs []error
	if !c.MetadataIP.Is4() || c.MetadataIP.IsLoopback() || c.MetadataIP.IsUnspecified() || c.MetadataIP.IsMulticast() {
		errs = append(errs, fmt.Errorf("metadata address %s: must be an IPv4 address that pods send to, normally %s", c.MetadataIP, DefaultMetadataIP))
	}
	if c.MetadataPort == 0 {
		errs = append(errs, fmt.Errorf("metadata port 0: must be 1 to 65535, normally %d", DefaultMetadataPort))
	}
	if !c.AgentIP.Is4() || !c.AgentIP.IsLinkLocalUnicast() {
		errs = append(errs, fmt.Errorf("agent address %s: must be an IPv4 link-local address (169.254.0.0/16), for example %s", c.AgentIP, DefaultAgentIP))
	} else if owner := reserved(c.AgentIP); owner != "" {
		errs = append(errs, fmt.Errorf("agent address %s: belongs to %s; take another one of 169.254.0.0/16, for example %s", c.AgentIP, owner, DefaultAgentIP))
	}
	if c.AgentIP.IsValid() && c.AgentIP == c.MetadataIP {
		errs = append(errs, fmt.Errorf("agent address %s: must differ from the metadata address", c.AgentIP))
	}
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`).MatchString(c.Table) {
		errs = append(errs, fmt.Errorf("nftables table %q: must be 1 to 64 letters, digits, - and _, beginning with a letter", c.Table))
	}
	if !regexp.MustCompile(`^[A-Za-z0-9]{0,64}$`).MatchString(c.Handover) {
		errs = append(errs, errors.New("word for the next agent: must be at most 64 letters and digits"))
	}
	return errors.Join(errs...)
}

// reserved names who uses a link-local address on nodes; empty when nobody known does.
func reserved(ip netip.Addr) string {
	for _, r := range []struct{ prefix, owner string }{
		{"169.254.0.0/24", "RFC 3927 (reserved), Antrea and OVN-Kubernetes"},
		{"169.254.255.0/24", "RFC 3927 (reserved)"},
		{"169.254.1.1/32", "the pod gateway of Calico and Azure CNI"},
		{"169.254.2.1/32", "the host side of Azure CNI"},
		{"169.254.20.10/32", "NodeLocal DNSCache"},
		{"169.254.21.0/24", "the BGP peers of Azure VPN gateways"},
		{"169.254.22.0/24", "the BGP peers of Azure VPN gateways"},
		{"169.254.169.0/24", "the metadata, DNS and time services of clouds"},
		{"169.254.170.0/24", "other credential agents"},
	} {
		if netip.MustParsePrefix(r.prefix).Contains(ip) {
			return r.owner
		}
	}
	return ""
}

// Redirect keeps one redirect in place. Its methods may be called from several goroutines.
type Redirect struct {
	config     Config
	generation generation
	answers    func(context.Context, netip.AddrPort) bool // whether somebody accepts connections there

	mu     sync.Mutex // one reader-then-writer of the kernel's state at a time; also guards what follows
	port   uint16     // where the agent really listens; 0 until known
	placed bool       // this agent has put the redirect in place before
	counts Counts

	look chan struct{} // holds at most one: check now
}

// Counts is told what was written, for metrics.
type Counts interface {
	RedirectSet()      // for the first time by this agent
	RedirectRepaired() // again, because somebody had changed it
}

// CountTo says where to count. Call it before Ensure and Run.
func (r *Redirect) CountTo(c Counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = c
}

// New checks the configuration. It touches nothing; Ensure and Run do.
func New(c Config) (*Redirect, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	now, err := currentGeneration()
	if err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	return &Redirect{config: c, generation: now, answers: accepts, port: c.AgentPort, look: make(chan struct{}, 1)}, nil
}

// Ensure puts the address and the rules in place, or finds that they are. What is right is not written
// again; what is wrong is put right in one transaction. It is nil as well when a newer agent on this node
// has taken over and answers.
func (r *Redirect) Ensure(ctx context.Context) error {
	_, err := r.ensure(ctx)
	return err
}

// outcome is what ensure found or did.
type outcome struct {
	repaired   []string // what was written, for the log; none when all was in place
	superseded bool     // a newer agent has the rules
}

func (r *Redirect) ensure(ctx context.Context) (outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out outcome
	added, err := ensureAddress(r.config.AgentIP)
	if added {
		out.repaired = append(out.repaired, "address")
	}
	// The rules matter more than the address: without it they still keep everything closed.
	err = errors.Join(err, r.ensureRules(ctx, &out))
	if err == nil && len(out.repaired) > 0 {
		r.count()
	}
	return out, err
}

func (r *Redirect) count() {
	again := r.placed
	r.placed = true
	switch {
	case r.counts == nil:
	case again:
		r.counts.RedirectRepaired()
	default:
		r.counts.RedirectSet()
	}
}

func (r *Redirect) ensureRules(ctx context.Context, out *outcome) error {
	if r.port == 0 {
		return errors.New("redirect: the agent's port is not known yet: call Listen first")
	}
	want := build(r.config, r.port, r.generation)
	have, err := readRuleset(want)
	if err != nil {
		return err
	}
	if by, found := have.owner(); found && by.generation > r.generation && r.answers(ctx, by.target) {
		out.superseded = true
		return nil
	}
	todo := diff(want, have)
	if todo.empty() {
		return nil
	}
	if err := writeRuleset(want, todo); err != nil {
		return err
	}
	out.repaired = append(out.repaired, todo.names()...)
	return r.verifyWritten(want)
}

// verifyWritten reads the rules back, so that a kernel or another program that changes what we write is an
// error somebody sees and not a rewrite at every check. A newer agent may have been quicker.
func (r *Redirect) verifyWritten(want ruleset) error {
	have, err := readRuleset(want)
	if err != nil {
		return err
	}
	if by, found := have.owner(); found && by.generation > r.generation {
		return nil
	}
	if left := diff(want, have); !left.empty() {
		return fmt.Errorf("nftables table %s: reads back differently from what was written (%v): "+
			"does another program change it?", want.table, left.names())
	}
	return nil
}

// Owner tells which other agent has the rules and answers: its word for the next one (Config.Handover), and where it
// listens. It is false when nobody has them, this agent does, or the one that did is gone.
func (r *Redirect) Owner(ctx context.Context) (handover string, target netip.AddrPort, found bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := readRuleset(build(r.config, r.port, r.generation))
	if err != nil {
		return "", netip.AddrPort{}, false, err
	}
	by, found := have.owner()
	own := netip.AddrPortFrom(r.config.AgentIP, r.port) // if the rules lead here, who wrote them has left the port
	if !found || by.generation == r.generation || by.target == own || !r.answers(ctx, by.target) {
		return "", netip.AddrPort{}, false, nil
	}
	return by.handover, by.target, true, nil
}

// Renew makes this agent the newest, so that the rules are its own at the next check, although another took them over
// after it started: that one gives them back, or is gone.
func (r *Redirect) Renew() error {
	now, err := currentGeneration()
	if err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	r.mu.Lock()
	r.generation = now
	r.mu.Unlock()
	r.Look()
	return nil
}

// Look makes Run check at once.
func (r *Redirect) Look() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// Remove takes the rules and the address away, for an uninstall. Pods reach the real metadata service
// afterwards. Removing what is not there is no error.
func (r *Redirect) Remove(_ context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(deleteTable(r.config.Table), deleteAddress(r.config.AgentIP))
}

// accepts tells whether a connection can be made. It goes over lo, which the rules leave alone.
func accepts(ctx context.Context, address netip.AddrPort) bool {
	d := net.Dialer{Timeout: 500 * time.Millisecond}
	conn, err := d.DialContext(ctx, "tcp4", address.String())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
