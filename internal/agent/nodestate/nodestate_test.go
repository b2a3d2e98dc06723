package nodestate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

var (
	startUp = corev1.Taint{Key: v1.AgentNotReadyTaint, Effect: corev1.TaintEffectNoSchedule}
	another = corev1.Taint{Key: "node.kubernetes.io/unreachable", Effect: corev1.TaintEffectNoExecute}
)

// cluster is an API server with one node.
type cluster struct {
	mu     sync.Mutex
	node   *corev1.Node
	notify func(*corev1.Node)
	writes int
	fail   error
	// capture is the value of the annotation.
	capture string
	// onlyTaints refuses writes of it.
	onlyTaints bool
}

// write is a write of another agent.
func (c *cluster) write(capture string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.capture = capture
	c.put(c.node.Spec.Taints)
}

func (c *cluster) Watch(ctx context.Context, notify func(*corev1.Node)) {
	c.mu.Lock()
	c.notify = notify
	notify(c.node)
	c.mu.Unlock()
	<-ctx.Done()
}

func (c *cluster) Write(_ context.Context, node *corev1.Node, taints []corev1.Taint, capture string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	switch {
	case c.fail != nil:
		return c.fail
	case c.onlyTaints && capture != "":
		return errors.New("forbidden")
	case node.ResourceVersion != c.node.ResourceVersion:
		return errors.New("conflict")
	}
	if taints == nil {
		taints = node.Spec.Taints
	}
	if capture != "" {
		c.capture = capture
	}
	c.put(taints)
	return nil
}

// set is a write of another client.
func (c *cluster) set(taints ...corev1.Taint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(taints)
}

// refuse makes writes fail with err. It returns how many there have been.
func (c *cluster) refuse(err error) (writes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
	return c.writes
}

func (c *cluster) put(taints []corev1.Taint) {
	c.node = nodeWith(c.node.ResourceVersion+"1", taints...)
	if c.capture != "" {
		c.node.Annotations = map[string]string{v1.CaptureAnnotation: c.capture}
	}
	c.notify(c.node)
}

func nodeWith(version string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: version}, Spec: corev1.NodeSpec{Taints: taints}}
}

func TestTaint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		c := &cluster{node: nodeWith("1", another, startUp)}
		var ready atomic.Bool
		r := New(c, Agent{Ready: ready.Load, Capture: func() string { return "" }}, logr.Discard())
		ended := make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		expect := func(what string, want ...corev1.Taint) {
			t.Helper()
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if diff := cmp.Diff(want, c.node.Spec.Taints, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		expect("not ready: the taint stays", another, startUp)

		ready.Store(true)
		r.Check()
		expect("ready: only the start-up taint is removed", another)

		c.set(startUp)
		expect("added again while ready: removed at once")

		ready.Store(false)
		c.set(startUp, another)
		expect("added again while not ready: it stays", startUp, another)

		ready.Store(true)
		before := c.refuse(errors.New("forbidden"))
		r.Check()
		expect("the API server refuses: it stays", startUp, another)
		time.Sleep(10 * time.Minute) //nolint:forbidigo // fake time
		if tried := c.refuse(nil) - before; tried < 5 || tried > 30 {
			t.Errorf("%d writes in ten minutes of refusals, want exponential backoff", tried)
		}
		time.Sleep(maxBackoff) //nolint:forbidigo // fake time
		expect("the API server accepts writes again", another)

		stop()
		<-ended
	})
}

// TestCapture: the annotation is written when the agent's own state changes, and left alone when
// another agent has written a different one since.
func TestCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		c := &cluster{node: nodeWith("1", another)}
		var state atomic.Value
		state.Store("")
		w := New(c, Agent{Ready: func() bool { return true }, Capture: func() string { return state.Load().(string) }}, logr.Discard())
		ended := make(chan struct{})
		go func() { defer close(ended); w.Run(ctx) }()
		expect := func(what, want string, writes int) {
			t.Helper()
			w.Check()
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.capture != want || c.writes != writes || len(c.node.Spec.Taints) != 1 {
				t.Errorf("%s: %q after %d writes, want %q after %d; taints %v", what, c.capture, c.writes, want, writes, c.node.Spec.Taints)
			}
		}
		expect("not known", "", 0)
		state.Store(v1.CaptureWire)
		expect("known", v1.CaptureWire, 1)
		expect("as before", v1.CaptureWire, 1)

		c.write(v1.CapturePod)
		expect("written by another agent", v1.CapturePod, 1)
		state.Store(v1.CapturePod)
		expect("as another agent has written", v1.CapturePod, 1)

		c.write(v1.CaptureWire)
		expect("another agent serves", v1.CaptureWire, 1)
		state.Store("")
		expect("so it is not this one's to say", v1.CaptureWire, 1)
		state.Store(v1.CapturePod)
		expect("this one serves again, as before", v1.CapturePod, 2)
		c.write("")
		expect("removed, or a new node", v1.CapturePod, 3)

		c.refuse(errors.New("forbidden"))
		state.Store(v1.CaptureNone)
		expect("the API server refuses", v1.CapturePod, 4)
		c.refuse(nil)
		expect("it accepts writes again", v1.CaptureNone, 5)

		c.mu.Lock()
		c.onlyTaints = true
		c.put(append(c.node.Spec.Taints, startUp))
		c.mu.Unlock()
		state.Store(v1.CaptureWire)
		w.Check()
		synctest.Wait()
		c.mu.Lock()
		if diff := cmp.Diff([]corev1.Taint{another}, c.node.Spec.Taints); diff != "" {
			t.Errorf("where only the taint may be changed (-want +got):\n%s", diff)
		}
		c.mu.Unlock()

		stop()
		<-ended
	})
}
