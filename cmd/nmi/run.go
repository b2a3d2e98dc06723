// Running the agent: what starts when, and how it stops.

package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/lifecycle"
	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/privileged"
)

// run builds the agent and runs it until ctx ends, then lets requests finish.
func run(ctx context.Context, o *options, log logr.Logger) error {
	if o.refusesKubenet() {
		if err := o.node.kubenet.Check(); err != nil {
			return err
		}
	}
	config, err := o.KubeConfig("nmi")
	if err != nil {
		return err
	}
	// Fetches in progress outlive ctx by as long as requests do.
	fetches, cancelFetches := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelFetches()
	stop, cancelPending := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelPending()
	a, err := newAgent(stop, fetches, o, config, log)
	if err != nil {
		return err
	}
	return a.run(ctx, cancelPending)
}

// run serves until ctx ends or something fails for good. It stops so that no request fails.
func (a *agent) run(ctx context.Context, cancelPending func()) error {
	pods, err := a.privileged.Listen(ctx)
	if err != nil {
		return err
	}
	a.lifecycle.Session.Offer(a.carry)
	if err := a.lifecycle.Session.Open(); err != nil {
		return errors.Join(err, pods.Close())
	}
	servers, err := a.openPorts(ctx)
	if err != nil {
		return errors.Join(unlessDone(ctx, err), pods.Close())
	}
	a.adopt(a.lifecycle.Session.Received())
	a.log.Info("serving pods", "address", pods.Addr().String())
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, work := errgroup.WithContext(work)
	group.Go(func() error {
		select {
		case <-ctx.Done():
			a.lifecycle.Stop(work, a.retire, cancelPending)
			end()
		case <-work.Done():
			cancelPending()
		}
		return nil
	})
	a.start(work, group, a.lifecycle.Count(pods))
	servers.Serve(work, group)
	return group.Wait()
}

// openPorts opens the ports for probes and metrics.
func (a *agent) openPorts(ctx context.Context) (servers daemon.Servers, err error) {
	err = a.lifecycle.OpenPorts(ctx, lifecycle.Ports{
		Now: a.o.Addresses(), Later: a.o.ports.later(), Owner: a.privileged.Owner,
		Open: func(ctx context.Context) (err error) {
			servers, err = a.o.ListenWith(ctx, a.lifecycle.Session, a.health, a.registry)
			return err
		},
	})
	return servers, err
}

// canServe returns a channel that is closed once this agent can serve pods.
func (a *agent) canServe() <-chan struct{} {
	if a.o.privileged.Way == privileged.CaptureWire {
		return a.wired
	}
	return a.capture.settled // the cluster is known before
}

// podLimits bound the connections of pods, by either way.
var podLimits = connections.Limits{Total: 2048, PerSource: podConnections} //nolint:gochecknoglobals // a constant

// podConnections is how many connections of one pod are open at most.
const podConnections = 256

// start starts everything that runs until ctx ends.
func (a *agent) start(ctx context.Context, group *errgroup.Group, pods net.Listener) {
	for _, f := range []func(context.Context){a.cluster.Run, a.lifecycle.Run, a.watchNode, a.awaitCluster, a.watchCilium, a.prefetch, a.writeRecords} {
		group.Go(func() error { f(ctx); return nil })
	}
	group.Go(func() error { a.lifecycle.Session.Run(ctx, a.privileged.TakeBack); return nil })
	if a.o.refusesKubenet() {
		group.Go(func() error { return a.o.node.kubenet.Watch(ctx, a.o.privileged.Interval()) })
	}
	group.Go(func() error {
		if err := a.lifecycle.AwaitTurn(ctx, a.canServe(), func() string { return strings.Join(a.health.Ready(), "; ") }); err != nil {
			return unlessDone(ctx, err)
		}
		a.privileged.KeepRedirect(ctx, func(err error) { a.setRedirect(ctx, err) })
		return nil
	})
	group.Go(func() error {
		return connections.Serve(ctx, pods, wireOrigins{attest.NewOrigins(), &a.cilium}, a.lifecycle.Handler(a.wire.answerProbes(a.server.ServePod)), podLimits, a.log)
	})
	if a.o.privileged.Way != privileged.CaptureWire {
		group.Go(func() error { a.captureInPods(ctx); return nil })
	}
	if a.o.wireProbe && a.o.privileged.Way != privileged.CaptureRequire { // which refuses what comes on the wire
		group.Go(func() error { a.probeWire(ctx); return nil })
	}
	for _, e := range a.hostEndpoints() {
		group.Go(func() error { return a.serveHost(ctx, e) })
	}
}

// unlessDone returns err, or nil if ctx has ended, which causes errors that are no failures.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // see above
	}
	return err
}

// watchNode watches the agent's node: its labels, and what the agent writes there. The start-up
// taint is removed when the agent is ready: once the cluster is known and the redirect is in place.
func (a *agent) watchNode(ctx context.Context) {
	if a.nodestate == nil {
		a.node.Watch(ctx, func(*corev1.Node) {})
		return
	}
	go func() {
		select {
		case <-a.cluster.Synced():
			a.nodestate.Check()
		case <-ctx.Done():
		}
	}()
	a.nodestate.Run(ctx)
}

// awaitCluster closes known once the cluster is known, and the kubelet's identity with it. It waits
// nodeLimit at most for the node: without its label, --cluster-identities and MIC alone keep the
// kubelet's identity from pods.
func (a *agent) awaitCluster(ctx context.Context) {
	select {
	case <-a.cluster.Synced():
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(nodeLimit)
	defer timer.Stop()
	select {
	case <-a.own.Known():
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	close(a.known)
	if a.o.privileged.Way == privileged.CaptureWire {
		a.awaitDataplane(ctx)
	}
}

// awaitDataplane waits until the node's label no longer says that packets pass by the redirect, and
// closes wired. An agent on the wire cannot serve pods before.
func (a *agent) awaitDataplane(ctx context.Context) {
	for a.dataplane.Ready() != nil {
		select {
		case <-time.After(labelRetry):
		case <-ctx.Done():
			return
		}
	}
	close(a.wired)
	a.endCapture(ctx)
}

// labelRetry is the pause between two looks at what the node's label says.
const labelRetry = time.Second

// prefetch fetches tokens before pods request them, from when the cluster is known until ctx ends.
func (a *agent) prefetch(ctx context.Context) {
	if len(a.o.prefetch.resources) == 0 {
		return
	}
	select {
	case <-a.cluster.Synced():
		a.tokens.Prefetch(ctx, a.o.prefetch.resources, a.tables.Table)
	case <-ctx.Done():
	}
}

// setRedirect records the result of a check of the redirect.
func (a *agent) setRedirect(ctx context.Context, err error) {
	a.redirected.Store(&err)
	a.metrics.RedirectState(err == nil)
	if err != nil {
		a.metrics.RedirectFailed()
	} else {
		a.wire.place.Do(func() { close(a.wire.placed) })
		a.endCapture(ctx)
	}
	a.reportServing()
	a.checkNode()
}

// reportServing lets probes and an older agent know whether pods are served.
func (a *agent) reportServing() {
	err := a.checkServing()
	if a.health.SetActive(err == nil); err != nil {
		return
	}
	if refused := a.checkRedirect(); refused != nil {
		a.capture.alone.Do(func() {
			a.log.Info("serving pods inside their own network only: the redirect is refused, and no pod needs it", "reason", refused.Error())
		})
	}
	a.lifecycle.ReportServing()
}

// checkServing returns why the redirect is not in place. Where the kernel refuses its rules for
// good, and no pod needs it, that is no fault.
func (a *agent) checkServing() error {
	err := a.checkRedirect()
	if errors.Is(err, redirect.ErrRefused) && a.onlyInPods() {
		return nil
	}
	return err
}

// checkNode lets what others see of the node follow the agent's state.
func (a *agent) checkNode() {
	if a.nodestate != nil {
		a.nodestate.Check()
	}
}

func (a *agent) checkRedirect() error {
	last := a.redirected.Load()
	if last == nil && a.lifecycle.TakesOver() {
		return errors.New("an older agent has it, until this one can serve pods")
	}
	if last == nil {
		return errors.New("not in place yet")
	}
	return *last
}
