// Package redirect diverts the requests of pods to the Azure instance metadata service
// (169.254.169.254:80) to the agent on their node, and refuses all their other packets to that
// address. docs/interception.md lists the rules and which packets each of them matches.
//
// It adds two things to the node's network and keeps them there: a link-local /32 on lo, at which
// the agent listens, and one nftables table. ruleset.go defines the table, kernel.go reads and
// writes it, run.go decides when. Both stay when the agent exits: a node without its agent refuses
// requests, and never lets them through.
//
// The package works in the network namespace of the calling thread. On a node that is the node's
// own (hostNetwork). Tests use temporary ones.
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

// Defaults of Config. The agent's address is link-local, so that it is in no pod, service or node
// range. No other program on Azure nodes uses it (see reserved). It never leaves a node, so all
// nodes have the same.
const (
	DefaultMetadataIP   = "169.254.169.254"
	DefaultMetadataPort = 80
	DefaultAgentIP      = "169.254.171.79"
	DefaultTable        = "podid"
)

// Config is what is diverted, and to where.
type Config struct {
	MetadataIP   netip.Addr // the address that pods send requests to; IPv4, because Azure's metadata service has no other
	MetadataPort uint16     // the only TCP port that is diverted; all other ports and protocols are refused
	AgentIP      netip.Addr // the agent's own address, link-local, on lo as a /32
	AgentPort    uint16     // where the agent listens; 0 lets Listen choose
	Table        string     // nftables table, family ip; two agents on one node share it (see generation.go)
	// BlockWireServer refuses what pods send to the TCP ports of Azure's WireServer.
	BlockWireServer bool
	// HandoverSecret is for a newer agent, which reads it from the rules: the comment of the divert
	// rule contains it, and reading rules needs the right to change the node's network. At most 64
	// letters and digits, or empty.
	HandoverSecret string
}

// Validate returns all errors of the configuration, joined.
//
//nolint:gocyclo // a flat list of rules
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
		errs = append(errs, fmt.Errorf("agent address %s: belongs to %s: choose another one of 169.254.0.0/16, for example %s", c.AgentIP, owner, DefaultAgentIP))
	}
	if c.AgentIP.IsValid() && c.AgentIP == c.MetadataIP {
		errs = append(errs, fmt.Errorf("agent address %s: must differ from the metadata address", c.AgentIP))
	}
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`).MatchString(c.Table) {
		errs = append(errs, fmt.Errorf("nftables table %q: must be 1 to 64 letters, digits, - and _, beginning with a letter", c.Table))
	}
	return errors.Join(append(errs, checkSecret(c.HandoverSecret))...)
}

func checkSecret(secret string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9]{0,64}$`).MatchString(secret) {
		return errors.New("handover secret: must be at most 64 letters and digits")
	}
	return nil
}

// reserved returns who is known to use a link-local address on nodes, or "".
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

// Redirect keeps one redirect in place. It is safe for concurrent use.
type Redirect struct {
	config     Config
	generation generation
	answers    func(context.Context, netip.AddrPort) bool // reports whether a process accepts connections there

	mu     sync.Mutex // held from reading the kernel's state to writing it; also guards the fields below
	port   uint16     // the actual port of the agent; 0 until known
	placed bool       // this agent has put the redirect in place before
	counts Counts

	checkNow chan struct{} // makes Run check at once; holds at most one
}

// Counts counts writes of the redirect, for metrics.
type Counts interface {
	RedirectSet()      // the first write by this agent
	RedirectRepaired() // a later write, because another program had changed the redirect
}

// CountTo sets the counts. Call it before Ensure and Run.
func (r *Redirect) CountTo(c Counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = c
}

// New returns a redirect, or the errors of the configuration. It changes nothing on the node:
// Ensure and Run do.
func New(c Config) (*Redirect, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	now, err := currentGeneration()
	if err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	return &Redirect{config: c, generation: now, answers: accepts, port: c.AgentPort, checkNow: make(chan struct{}, 1)}, nil
}

// Ensure puts the address and the rules in place. It writes only what differs, the rules in one
// transaction. If a newer agent of this node has the rules and answers, it leaves them to that
// agent and returns nil.
func (r *Redirect) Ensure(ctx context.Context) error {
	_, err := r.ensure(ctx)
	return err
}

// outcome is what ensure found or did.
type outcome struct {
	repaired   []string // what was written, for the log; empty if nothing differed
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
	// The rules are written even if the address fails: without it they still refuse everything.
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
	if by, found := have.owner(); found && by.generation > r.generation {
		if out.superseded, err = r.answered(ctx, by.target); err != nil || out.superseded {
			return err
		}
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

// verifyWritten reads the rules back. If the kernel or another program changed them, that is an
// error that the operator sees, instead of a rewrite at every check. A newer agent may have
// replaced them meanwhile.
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

// Owner returns the secret (Config.HandoverSecret) and the address of the other agent that has the
// rules and answers. found is false if no agent has the rules, if this agent has them, or if their
// owner is gone.
func (r *Redirect) Owner(ctx context.Context) (secret string, target netip.AddrPort, found bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := readRuleset(build(r.config, r.port, r.generation))
	if err != nil {
		return "", netip.AddrPort{}, false, err
	}
	by, found := have.owner()
	own := netip.AddrPortFrom(r.config.AgentIP, r.port) // if the rules lead here, the agent that wrote them no longer has the port
	if !found || by.generation == r.generation || by.target == own {
		return "", netip.AddrPort{}, false, nil
	}
	if answers, err := r.answered(ctx, by.target); err != nil || !answers {
		return "", netip.AddrPort{}, false, err
	}
	return by.secret, by.target, true, nil
}

// Diversion returns how many connections the divert rule has diverted since it was written, and
// whether a newer agent wrote it. Without a rule it is 0.
func (r *Redirect) Diversion() (connections uint64, newer bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := readRuleset(build(r.config, r.port, r.generation))
	if err != nil {
		return 0, false, err
	}
	by, found := have.owner()
	return have.diverted(), found && by.generation > r.generation, nil
}

// answered reports whether another agent answers. It fails if ctx has ended: then that agent may
// well be there, and its rules must stay.
func (r *Redirect) answered(ctx context.Context, at netip.AddrPort) (bool, error) {
	if r.answers(ctx, at) {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("ask the agent at %s: %w", at, err)
	}
	return false, nil
}

// Target is the agent that the redirect leads to.
type Target struct {
	Port       uint16 `json:"port"`
	Secret     string `json:"secret"`     // Config.HandoverSecret
	Generation uint64 `json:"generation"` // when it started or last called Renew, since the boot
}

// Target returns where the redirect leads, for another process that keeps it.
func (r *Redirect) Target() Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Target{Port: r.port, Secret: r.config.HandoverSecret, Generation: uint64(r.generation)}
}

// Lead lets the redirect lead to an agent in another process, from the next check on.
func (r *Redirect) Lead(to Target) error {
	now, err := currentGeneration()
	if err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	if err := checkSecret(to.Secret); err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	if to.Port == 0 || generation(to.Generation) > now {
		return fmt.Errorf("redirect: an agent at port %d that started %d ns after the boot: impossible", to.Port, to.Generation)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.config.HandoverSecret != to.Secret {
		r.placed = false // another agent's, which has put nothing in place before
	}
	r.config.HandoverSecret, r.port, r.generation = to.Secret, to.Port, generation(to.Generation)
	r.requestCheck()
	return nil
}

// Renew makes this agent the newest, so that it takes the rules at the next check. Call it when a
// newer agent hands them back or is gone.
func (r *Redirect) Renew() error {
	now, err := currentGeneration()
	if err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	r.mu.Lock()
	r.generation = now
	r.mu.Unlock()
	r.requestCheck()
	return nil
}

// requestCheck makes Run check at once.
func (r *Redirect) requestCheck() {
	select {
	case r.checkNow <- struct{}{}:
	default:
	}
}

// Remove removes the rules and the address, for an uninstall. Pods then reach the real metadata
// service. It is no error if they do not exist.
func (r *Redirect) Remove(_ context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(deleteTable(r.config.Table), deleteAddress(r.config.AgentIP))
}

// acceptTimeout is how long it may take until a process accepts a connection. The kernel does that
// at once, but on a busy machine this process may not run for a second. It must be less than the
// 5 s that an agent waits for an older one to take the rules back.
const acceptTimeout = 3 * time.Second

// accepts reports whether a process accepts connections at the address. The connection goes over
// lo, which no rule matches.
func accepts(ctx context.Context, address netip.AddrPort) bool {
	d := net.Dialer{Timeout: acceptTimeout}
	conn, err := d.DialContext(ctx, "tcp4", address.String())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
