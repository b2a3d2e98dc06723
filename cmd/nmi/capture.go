// How pods' requests reach the agent: on the wire, by the redirect, and inside pods, by the
// holder's sockets in their network namespaces (internal/hook).

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/handover"
	"github.com/podid-io/podid/internal/agent/inpod"
	"github.com/podid-io/podid/internal/agent/podgroups"
	"github.com/podid-io/podid/internal/agent/sockdiag"
	"github.com/podid-io/podid/internal/kubepods"
	"github.com/podid-io/podid/internal/privileged"
	"github.com/podid-io/podid/internal/reason"
)

// capture is the state of capture inside pods.
type capture struct {
	last atomic.Pointer[error] // of the last check, nil before the first
	// settled is closed once it is known whether this agent captures inside pods: with prefer after
	// the first check, with require after the first that succeeds, and with wire when nothing captures
	// inside them any more.
	settled chan struct{}
	settle  sync.Once
	// ended means that an agent on the wire has looked for what an earlier agent left. left is why
	// what captured inside pods could not be removed, with prefer this agent's own, too.
	ended  bool
	ending sync.Mutex
	left   atomic.Pointer[error]
	// passes means that pods whose sockets the agent does not have reach the redirect.
	passes atomic.Bool
	alone  sync.Once // logs that this node does without the redirect
}

// endCapture removes what an earlier agent with another --capture has put in place, once pods'
// requests come by the redirect. Until then pods are refused. Where the node's network passes by
// the redirect, they stay so: otherwise they would reach the metadata service itself. It looks only
// once: what appears later is a newer agent's.
func (a *agent) endCapture(ctx context.Context) {
	a.capture.ending.Lock()
	defer a.capture.ending.Unlock()
	if a.o.privileged.Way != privileged.CaptureWire || a.capture.ended || a.checkRedirect() != nil {
		return
	}
	select {
	case <-a.known:
	default:
		return // nor is the node's network
	}
	if a.dataplane.Ready() != nil {
		return
	}
	found, err := a.privileged.EndCapture(ctx)
	if a.capture.left.Store(&err); err != nil {
		a.log.Error(err, "cannot remove what captured requests inside pods, retrying: pods are refused; run nmi --cleanup on the node")
		return
	}
	if a.capture.ended = true; found {
		a.log.Info("no longer capturing requests inside pods")
	}
	a.capture.settle.Do(func() { close(a.capture.settled) })
}

// captureRetry is the pause after a failure: what is missing on the node may come later.
const captureRetry = 30 * time.Second

// captureInPods captures requests inside pods until ctx ends, from when the cluster is known. While
// that is not possible, pods' requests are redirected on the wire.
func (a *agent) captureInPods(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.known:
	}
	for ctx.Err() == nil {
		err := a.serveInPods(ctx)
		if ctx.Err() != nil {
			break
		}
		if a.o.privileged.Way == privileged.CapturePrefer {
			a.release(ctx)
		}
		a.setCapture(err)
		select {
		case <-ctx.Done():
		case <-time.After(captureRetry):
		}
	}
	select {
	case <-a.lifecycle.Turn():
	default:
		if a.o.privileged.Way == privileged.CapturePrefer {
			a.release(ctx) // an older agent goes on serving pods
		}
	}
}

// retire removes what captures inside pods if the agent that has taken over is on the wire: it may
// not see --bpf-dir. On nodes whose network passes by the redirect pods stay closed.
func (a *agent) retire(ctx context.Context) {
	if a.o.privileged.Way == privileged.CaptureWire || a.dataplane.Ready() != nil {
		return
	}
	if err := a.privileged.Retire(ctx); err != nil {
		a.log.Error(err, "cannot remove what captures requests inside pods: some pods may be refused; run nmi --cleanup on the node")
	}
}

// release lets pods reach the redirect, unless another agent captures inside them. On nodes whose
// network passes by the redirect they would reach the metadata service.
func (a *agent) release(ctx context.Context) {
	if a.dataplane.Ready() != nil {
		return
	}
	err := a.privileged.Release(ctx)
	if a.capture.left.Store(&err); err != nil {
		a.log.Error(err, "cannot remove what captures requests inside pods: some pods are refused; run nmi --cleanup on the node")
	}
}

// checkCapture returns why requests are not captured inside pods.
func (a *agent) checkCapture() error {
	last := a.capture.last.Load()
	if last == nil {
		return errors.New("not inside pods yet")
	}
	return *last
}

// onlyInPods reports whether no pod of this node needs the redirect: requests are captured inside
// pods, and where they are not, pods are refused.
func (a *agent) onlyInPods() bool {
	return a.checkCapture() == nil && (a.o.privileged.Way == privileged.CaptureRequire || !a.capture.passes.Load())
}

// wireRefusal returns why a request that came on the wire is refused, or nil.
func (a *agent) wireRefusal() *reason.Refusal {
	if a.o.privileged.Way != privileged.CaptureRequire {
		return nil
	}
	select {
	case <-a.capture.settled:
		return reason.CallerNotProven.Refuse("this node answers pods inside their own network only: the request came on the node's network")
	default:
		return reason.NotReady.Refuse("the node agent does not serve pods inside their own network yet: try again")
	}
}

// checkDataplane returns why pods' requests do not reach the agent on this node.
func (a *agent) checkDataplane() error {
	if a.checkCapture() == nil {
		return nil // whatever the node's network does
	}
	if left := a.capture.left.Load(); left != nil && *left != nil {
		return fmt.Errorf("pods are refused by what captured inside them: %w", *left)
	}
	return a.dataplane.Ready()
}

// captureState returns the value of the node's annotation: nothing while it is another agent's
// turn, and before it is known.
func (a *agent) captureState() string {
	select {
	case <-a.lifecycle.Turn():
	default:
		return ""
	}
	if state, _ := a.lifecycle.Session.State(); state == handover.Serving {
		return "" // a newer agent serves
	}
	switch {
	case a.checkCapture() == nil:
		return v1.CapturePod
	case a.o.privileged.Way == privileged.CapturePrefer && a.capture.last.Load() == nil, a.redirected.Load() == nil:
		return ""
	case a.o.privileged.Way == privileged.CaptureRequire, a.checkDataplane() != nil, a.checkRedirect() != nil:
		return v1.CaptureNone
	default:
		return v1.CaptureWire
	}
}

// setCapture records the result of a check.
func (a *agent) setCapture(err error) {
	before := a.capture.last.Swap(&err)
	a.metrics.CaptureState(err == nil)
	if err == nil || a.o.privileged.Way == privileged.CapturePrefer {
		a.capture.settle.Do(func() { close(a.capture.settled) })
	}
	a.reportServing()
	a.checkNode()
	if before == nil || text(*before) != text(err) {
		a.logCapture(err, before != nil && *before == nil)
	}
}

// text returns the text of an error, or nothing for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// logCapture logs a result that is new. With prefer, a node where it never worked has no fault.
func (a *agent) logCapture(err error, worked bool) {
	const failed = "cannot capture requests inside pods, retrying"
	switch {
	case err == nil:
		a.log.Info("capturing requests inside pods")
	case a.o.privileged.Way == privileged.CapturePrefer && !worked:
		a.log.Info(failed+": pods are served on the wire", "reason", err.Error())
	default:
		a.log.Error(err, failed+": they come on the wire, where --capture=require refuses them")
	}
}

// serveInPods is the holder, and its agent, until parent ends or one of them cannot go on.
func (a *agent) serveInPods(parent context.Context) error {
	groups := a.o.privileged.Groups()
	folder, err := kubepods.Find(os.DirFS(groups))
	if err != nil {
		return err
	}
	if err := sockdiag.Check(parent); err != nil {
		return err
	}
	socket, remove, err := a.privileged.Sockets()
	if err != nil {
		return err
	}
	defer remove()
	index := podgroups.New(filepath.Join(groups, folder))
	index.Appeared = a.tables.hostPods.Appeared
	listener := inpod.New(socket, perNamespace, index, a.tables.hostPods, a.log)
	limits := podLimits
	limits.EqualHosts = true // both ends of all these connections are 127.0.0.1
	group, ctx := errgroup.WithContext(parent)
	group.Go(func() error {
		// On nodes whose network passes by the redirect, pods would wait for an answer in vain.
		passes := a.dataplane.Ready() == nil
		a.capture.passes.Store(passes)
		return a.privileged.Capture(ctx, socket, passes, onceComplete(ctx, listener.Complete(), a.setCapture))
	})
	group.Go(func() error { return index.Run(ctx) })
	group.Go(func() error { return listener.Run(ctx) })
	group.Go(func() error {
		return connections.Serve(ctx, a.lifecycle.Count(listener), proven{}, a.lifecycle.Handler(a.server.ServePod), limits, a.log)
	})
	err = group.Wait()
	if err == nil && parent.Err() == nil {
		err = errors.New("a part of it has ended")
	}
	if err != nil {
		return fmt.Errorf("capture requests inside pods: %w", err)
	}
	return nil
}

// onceComplete returns a function that passes on the results of checks. It holds back success until
// the agent has the sockets of all pods.
func onceComplete(ctx context.Context, complete <-chan struct{}, report func(error)) func(error) {
	var mu sync.Mutex
	var last error
	checked, whole := false, false
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-complete:
		}
		mu.Lock()
		defer mu.Unlock()
		if whole = true; checked && ctx.Err() == nil {
			report(last)
		}
	}()
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if checked, last = true, err; whole || err != nil {
			report(err)
		}
	}
}

// perNamespace is how many connections of one network namespace are open at most. It is more than
// the server allows one pod, so that the server can close a pod's idle connections for new ones.
const perNamespace = podConnections + 16

// proven is the origins of connections inside pods.
type proven struct{}

// Of implements connections.Origins.
func (proven) Of(c net.Conn) attest.Origin {
	for {
		conn, ok := c.(*inpod.Conn)
		switch wrapper, wraps := c.(interface{ NetConn() net.Conn }); {
		case ok && conn.Pod != "":
			return attest.Origin{Pod: types.UID(conn.Pod)}
		case ok:
			return attest.Origin{Outside: conn.Namespace}
		case wraps:
			c = wrapper.NetConn()
		default:
			return attest.Origin{} // no pod matches
		}
	}
}
