// Whether what pods send on the node's network arrives at this agent: a probe finds out
// (internal/hook/wireprobe).

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podid-io/podid/internal/agent/dataplane"
	"github.com/podid-io/podid/internal/hook/wireprobe"
	"github.com/podid-io/podid/internal/privileged"
)

// wire is what probes on the node's network have found.
type wire struct {
	question wireprobe.Question
	last     atomic.Pointer[privileged.Probed] // nil before the first
	placed   chan struct{}                     // closed when the redirect has been in place
	place    sync.Once
}

// newWire returns a wire with a question that nothing else can know.
func newWire() *wire {
	number := func() string {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		return hex.EncodeToString(b[:])
	}
	return &wire{question: wireprobe.Question{Question: number(), Answer: number()}, placed: make(chan struct{})}
}

// answerProbes answers the question of probes, and leaves all other requests to next. Probes are no
// pods: they are neither counted nor recorded.
func (w *wire) answerProbes(next http.HandlerFunc) http.HandlerFunc {
	return func(out http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wireprobe.Path || r.Header.Get(wireprobe.Header) != w.question.Question {
			next(out, r)
			return
		}
		out.Header().Set("Connection", "close")
		_, _ = io.WriteString(out, w.question.Answer) // a probe that is gone reports that itself
	}
}

// passesRetry is the pause between probes while they pass by.
const passesRetry = 5 * time.Second

// confirmAfter returns the pauses before a probe that passed by is sent again. Only if all of them
// pass by it counts: the first one may have met rules that were just being put in place.
func confirmAfter() []time.Duration { return []time.Duration{time.Second, passesRetry} }

// probeWire sends probes until ctx ends: when the redirect is in place for the first time, and then
// at the interval of its checks. It sends none before what an earlier agent or the boot guard
// refuses pods by has been taken over or removed, and none where the node's network is known to
// pass by the redirect: what captures inside pods refuses it there.
func (a *agent) probeWire(ctx context.Context) {
	for _, ready := range []<-chan struct{}{a.wire.placed, a.capture.settled} {
		select {
		case <-ctx.Done():
			return
		case <-ready:
		}
	}
	for ctx.Err() == nil {
		if a.checkRedirect() == nil && a.dataplane.Ready() == nil {
			a.setProbed(ctx, a.probe(ctx))
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.probePause()):
		}
	}
}

// probePause returns the pause before the next probe, or before the next look at whether the first
// one can be sent: until then an agent is not ready that does not capture inside pods.
func (a *agent) probePause() time.Duration {
	switch interval := a.o.privileged.Interval(); {
	case a.wire.last.Load() == nil && a.checkCapture() != nil:
		return min(interval, labelRetry)
	case a.wirePasses() != nil:
		return min(interval, passesRetry)
	default:
		return interval
	}
}

// probe sends a probe, and more if it is the first that passed by.
func (a *agent) probe(ctx context.Context) privileged.Probed {
	found := a.privileged.Probe(ctx, a.wire.question)
	for _, pause := range confirmAfter() {
		if found.Verdict != privileged.Passes || a.wirePasses() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		found = a.privileged.Probe(ctx, a.wire.question)
	}
	if found.Verdict == privileged.Arrives && a.cilium.HostRouting() == dataplane.Unknown {
		found.Verdict, found.Reason = privileged.Unknown, "the probe arrived, but Cilium may route what pods send past the node's netfilter"
	}
	return found
}

// setProbed records a result. After a probe that passed by, only a connection that arrives proves
// that others do, the probe's or a pod's.
func (a *agent) setProbed(ctx context.Context, found privileged.Probed) {
	before := a.wire.last.Load()
	switch {
	case ctx.Err() != nil:
		return // the result may be due to that
	case before != nil && found.Verdict == privileged.Newer:
		return
	case a.wirePasses() != nil && found.Verdict == privileged.Unknown && !found.Diverted:
		return
	}
	a.wire.last.Store(&found)
	a.metrics.WireProbed(wireResult(found))
	a.checkNode()
	if before == nil || before.Verdict != found.Verdict || before.Reason != found.Reason {
		a.logProbed(found)
	}
}

// wireResult returns a result as the metric has it.
func wireResult(found privileged.Probed) string {
	switch found.Verdict {
	case privileged.Arrives, privileged.Passes:
		return string(found.Verdict)
	default:
		return "unknown"
	}
}

func (a *agent) logProbed(found privileged.Probed) {
	switch found.Verdict {
	case privileged.Arrives:
		a.log.Info("a probe on the node's network arrived: so does what pods send")
	case privileged.Passes:
		a.log.Error(a.wirePasses(), "a probe on the node's network did not arrive, retrying")
	case privileged.Unknown:
		a.log.Info("cannot prove on the node's network that what pods send arrives, retrying; --wire-probe=false turns this off", "reason", found.Reason)
	case privileged.Newer:
	}
}

// wirePasses returns what the last probe met, if it passed by the redirect.
func (a *agent) wirePasses() error {
	last := a.wire.last.Load()
	if last == nil || last.Verdict != privileged.Passes {
		return nil
	}
	return fmt.Errorf("a probe on the node's network passed by the redirect: %s: another program or the network plugin comes first, "+
		"and pods may reach the metadata service itself; see which one (nft list ruleset, bpftool cgroup tree), or use --capture=require", last.Reason)
}

// checkWire returns why it is not proven that pods' requests arrive. Where they are captured inside
// pods, the node's network decides nothing.
func (a *agent) checkWire() error {
	if a.o.privileged.Way == privileged.CaptureRequire || a.checkCapture() == nil {
		return nil
	}
	if a.wire.last.Load() == nil {
		return errors.New("no probe has been sent on the node's network yet")
	}
	return a.wirePasses()
}
