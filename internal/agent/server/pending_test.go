package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/identity"
)

// of moves a pod to another namespace.
func of(namespace string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Namespace, p.UID = namespace, p.UID+"-"+p.UID }
}

// TestPendingOfAGreedyNamespace: pods of one namespace without a binding send as many requests as
// may wait, repeatedly. Several requests of a pod in another namespace still wait for its identity.
func TestPendingOfAGreedyNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimeless(t, func(s *settings) { s.server.MaxPending, s.server.MaxPendingPerPod = 32, 8 })
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for pod := range 6 {
			ip := fmt.Sprint("10.9.1.", pod)
			w.pod(fmt.Sprint("greedy-", pod), ip, of("hostile"))
			for range 8 {
				group.Go(func() {
					for ctx.Err() == nil {
						got, _, _ := w.ask(ctx, ip, tokenQuery(arm))
						if got.status == http.StatusTooManyRequests && got.header.Get("Retry-After") == "" {
							t.Error("no Retry-After")
						}
						<-time.After(200 * time.Millisecond)
					}
				})
			}
		}
		<-time.After(20 * time.Second)
		if n := w.server.pending.Len(); n < 30 {
			t.Fatalf("%d places are taken: this shows nothing", n)
		}
		w.pod("web", "10.9.0.2")
		w.bind("web", "one")
		var victims sync.WaitGroup
		for range 6 {
			victims.Go(func() {
				if got, _, err := w.ask(ctx, "10.9.0.2", tokenQuery(arm)); got.status != http.StatusOK {
					t.Errorf("got %d %s (%v)", got.status, got.body, err)
				}
			})
		}
		<-time.After(15 * time.Second)
		w.state("web", "one", v1.StateAssigned, "", "")
		victims.Wait()
		cancel()
		group.Wait()
		synctest.Wait()
		if n := w.server.pending.Len(); n != 0 {
			t.Errorf("%d places are still held", n)
		}
	})
}

// TestWokenTooOften: a request that is woken by changes all the time decides ten times a second,
// and notices the change that it waits for.
func TestWokenTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTimeless(t, nil)
		counted := &countedDecisions{Authorizer: w.server.cfg.Authorizer}
		w.server.cfg.Authorizer = counted
		w.pod("web", "10.9.0.2")
		w.bind("web", "one")
		answered := make(chan reply, 1)
		go func() {
			got, _, _ := w.ask(t.Context(), "10.9.0.2", tokenQuery(arm))
			answered <- got
		}()
		for range 3_000 {
			<-time.After(time.Millisecond)
			w.bind("web", "one")
		}
		synctest.Wait()
		if n := counted.count(); n < 20 || n > 60 {
			t.Errorf("%d decisions in 3 s", n)
		}
		began := time.Now()
		w.state("web", "one", v1.StateAssigned, "", "")
		if got := <-answered; got.status != http.StatusOK || time.Since(began) > coalesceTime {
			t.Errorf("got %d after %v", got.status, time.Since(began))
		}
	})
}

// countedDecisions counts decisions.
type countedDecisions struct {
	Authorizer
	n atomic.Int64
}

func (c *countedDecisions) Decide(pod types.NamespacedName, s identity.Selector, objectID func(*v1.AzureIdentity) string) authorize.Decision {
	c.n.Add(1)
	return c.Authorizer.Decide(pod, s, objectID)
}

func (c *countedDecisions) count() int64 { return c.n.Load() }
