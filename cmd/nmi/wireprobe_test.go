package main

import (
	"context"
	"errors"
	"flag"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/lifecycle"
	"github.com/podid-io/podid/internal/hook/wireprobe"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/privileged"
)

// probing is privileges of which a test uses the probe and the release.
type probing struct {
	privileges
	sent   int
	probe  func(n int) privileged.Probed // the result of the probe with a number, from 1 on
	failed error                         // of Release
}

// Probe implements privileges.
func (p *probing) Probe(context.Context, wireprobe.Question) privileged.Probed {
	p.sent++
	return p.probe(p.sent)
}

// EndCapture implements privileges.
func (p *probing) EndCapture(context.Context) (bool, error) { return false, nil }

// Release implements privileges.
func (p *probing) Release(context.Context) error { return p.failed }

// newProbing returns an agent whose redirect is in place, and which does not know yet whether it
// captures inside pods.
func newProbing(probe func(n int) privileged.Probed) (*agent, *probing) {
	p := &probing{probe: probe}
	o := &options{}
	o.privileged.BindFlags(flag.NewFlagSet("", flag.PanicOnError))
	o.privileged.Way = privileged.CapturePrefer
	a := &agent{
		o: o, log: logr.Discard(), privileged: p, health: &observe.Health{}, lifecycle: lifecycle.New(logr.Discard()),
		metrics: observe.NewMetrics(prometheus.NewRegistry()), wire: newWire(), capture: capture{settled: make(chan struct{})},
	}
	a.redirected.Store(new(error))
	close(a.wire.placed)
	return a, p
}

// TestProbeHeldBack: no probe is sent before it is known whether the agent captures inside pods:
// until then the boot guard refuses it.
func TestProbeHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newProbing(func(int) privileged.Probed { return privileged.Probed{Verdict: privileged.Arrives} })
		go a.probeWire(t.Context())
		synctest.Wait()
		if p.sent != 0 || a.checkWire() == nil {
			t.Errorf("%d probes sent; ready: %v", p.sent, a.checkWire())
		}
		close(a.capture.settled)
		synctest.Wait()
		if p.sent != 1 || a.checkWire() != nil {
			t.Errorf("%d probes sent; ready: %v", p.sent, a.checkWire())
		}
	})
}

// TestProbeAfterLabel: an agent whose node's label says that packets pass by, and which is then
// taken away, is ready within seconds, and takes over from an older agent.
func TestProbeAfterLabel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newProbing(func(int) privileged.Probed { return privileged.Probed{Verdict: privileged.Arrives} })
		a.o.privileged.Way = privileged.CaptureWire
		a.known, a.wired = make(chan struct{}), make(chan struct{})
		close(a.known)
		label := func(value string) {
			a.dataplane.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1.HostRoutingLabel: value}}})
		}
		label("true")
		go a.awaitDataplane(t.Context())
		go a.probeWire(t.Context())
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		synctest.Wait()
		select {
		case <-a.wired:
			t.Error("takes over while its node's packets pass by")
		default:
		}
		if p.sent != 0 || a.checkWire() == nil {
			t.Errorf("%d probes sent; ready: %v", p.sent, a.checkWire())
		}
		label("false")
		time.Sleep(2 * labelRetry) //nolint:forbidigo // fake time
		synctest.Wait()
		select {
		case <-a.wired:
		default:
			t.Error("does not take over")
		}
		if p.sent != 1 || a.checkWire() != nil {
			t.Errorf("%d probes sent; ready: %v", p.sent, a.checkWire())
		}
	})
}

// TestProbePasses: only probes that pass by three times in a row make the agent not ready, and only
// a connection that arrives ends that: the probe's, or a pod's that the redirect has counted.
func TestProbePasses(t *testing.T) {
	passes, arrives := privileged.Probed{Verdict: privileged.Passes, Reason: "routed on"}, privileged.Probed{Verdict: privileged.Arrives}
	none, counted := privileged.Probed{Reason: "no answer"}, privileged.Probed{Reason: "no answer", Diverted: true}
	for name, tt := range map[string]struct {
		probes []privileged.Probed // the last one is repeated
		ready  []bool              // after each call of probe
	}{
		"put in place meanwhile": {[]privileged.Probed{passes, passes, arrives}, []bool{true}},
		"passed by":              {[]privileged.Probed{passes, passes, passes, none, none, arrives}, []bool{false, false, false, true}},
		"a pod's arrives":        {[]privileged.Probed{passes, passes, passes, none, counted}, []bool{false, false, true}},
		"not sent":               {[]privileged.Probed{none}, []bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := newProbing(func(n int) privileged.Probed { return tt.probes[min(n, len(tt.probes))-1] })
				for i, want := range tt.ready {
					a.setProbed(t.Context(), a.probe(t.Context()))
					if err := a.checkWire(); (err == nil) != want {
						t.Errorf("after %d: %v, want ready %v", i+1, err, want)
					}
				}
			})
		})
	}
}

// TestReleaseFails: an agent is not ready while what captured inside pods cannot be removed and may
// refuse them, unless it captures again.
func TestReleaseFails(t *testing.T) {
	a, p := newProbing(nil)
	for _, tt := range []struct {
		failed, captures error
		ready            bool
	}{
		{nil, errors.New("no"), true},
		{errors.New("busy"), errors.New("no"), false},
		{errors.New("busy"), nil, true},
		{nil, errors.New("no"), true},
	} {
		p.failed = tt.failed
		a.release(t.Context())
		a.setCapture(tt.captures)
		if err := a.checkDataplane(); (err == nil) != tt.ready {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
