// The probe on the node's network: what it met, and what that proves.

package privileged

import (
	"context"
	"errors"
	"net/netip"

	"github.com/podid-io/podid/internal/hook/wireprobe"
)

// Verdict is what a probe on the node's network proves.
type Verdict string

const (
	// Unknown is nothing: the probe could not be sent, or did not arrive for a reason that pods may
	// not have.
	Unknown Verdict = ""
	// Arrives means that what pods send arrives at this agent.
	Arrives Verdict = "arrives"
	// Passes means that what pods send passes by the redirect.
	Passes Verdict = "passes"
	// Newer means that a newer agent has the redirect.
	Newer Verdict = "newer"
)

// Probed is the result of a probe. Reason is empty unless the verdict is Unknown or Passes.
type Probed struct {
	Verdict Verdict `json:"verdict,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	// Diverted means that the redirect has diverted a connection meanwhile, the probe's or a pod's.
	Diverted bool `json:"diverted,omitempty"`
}

// Probe finds out where pods' connections to the metadata service arrive on the node's network.
func (l *Local) Probe(ctx context.Context, q wireprobe.Question) Probed {
	if !q.Valid() {
		return Probed{Reason: "the question of a probe is two numbers in 32 hexadecimal digits each"}
	}
	l.probing.Lock() // a second one would wait for the first one's interface
	defer l.probing.Unlock()
	before, newer, err := l.redirect.Diversion()
	if err != nil || newer {
		return unsent(newer, err)
	}
	c := wireprobe.Config{Metadata: l.options.metadata(), Source: l.options.probeAddress(), Question: q}
	found, err := wireprobe.Run(ctx, c)
	if err != nil {
		return unsent(false, err)
	}
	after, newer, err := l.redirect.Diversion()
	if err != nil || newer {
		return unsent(newer, err)
	}
	probed := judge(found, after != before)
	probed.Diverted = after != before
	return probed
}

func unsent(newer bool, err error) Probed {
	if newer {
		return Probed{Verdict: Newer}
	}
	return Probed{Reason: err.Error()}
}

// judge returns what a finding proves. diverted is Probed's.
func judge(found wireprobe.Finding, diverted bool) Probed {
	passes := Probed{Verdict: Passes, Reason: found.Detail}
	switch found.Met {
	case wireprobe.Agent:
		return Probed{Verdict: Arrives}
	case wireprobe.Router, wireprobe.Stranger:
		return passes
	case wireprobe.Reset, wireprobe.Silence:
		if !diverted {
			return passes
		}
	case wireprobe.Unknown:
	}
	return Probed{Reason: found.Detail}
}

// probeAddress returns the address of probes: a neighbor of the agent's, which is link-local, too.
func (o *Options) probeAddress() netip.Addr {
	address := netip.MustParseAddr(o.agentAddress).As4()
	address[3] ^= 1
	if netip.AddrFrom4(address) == o.metadata().Addr() {
		address[3] ^= 2
	}
	return netip.AddrFrom4(address)
}

// Probe is Local's.
func (r *Remote) Probe(ctx context.Context, q wireprobe.Question) Probed {
	last, err := r.call(ctx, request{Act: actProbe, Question: q}, nil)
	if err = errors.Join(err, last.err()); err != nil {
		return unsent(false, err)
	}
	return last.Probed
}
