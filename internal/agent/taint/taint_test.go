package taint

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
}

func (c *cluster) Watch(ctx context.Context, notify func(*corev1.Node)) {
	c.mu.Lock()
	c.notify = notify
	notify(c.node)
	c.mu.Unlock()
	<-ctx.Done()
}

func (c *cluster) SetTaints(_ context.Context, node *corev1.Node, taints []corev1.Taint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	switch {
	case c.fail != nil:
		return c.fail
	case node.ResourceVersion != c.node.ResourceVersion:
		return errors.New("conflict")
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
	c.notify(c.node)
}

func nodeWith(version string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: version}, Spec: corev1.NodeSpec{Taints: taints}}
}

func TestRemover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		c := &cluster{node: nodeWith("1", another, startUp)}
		var ready atomic.Bool
		r := New(c, ready.Load, logr.Discard())
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
