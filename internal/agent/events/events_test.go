package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// fakeAPI stores Events as the API server does, and can be unreachable.
type fakeAPI struct {
	mu     sync.Mutex
	events map[string]*corev1.Event
	writes int
	down   bool
}

func (f *fakeAPI) write(e *corev1.Event, exists bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.down {
		return errors.New("connection refused")
	}
	if _, found := f.events[e.Name]; exists && !found {
		return fmt.Errorf("update: %w", apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, e.Name))
	}
	f.events[e.Name] = e
	return nil
}

func (f *fakeAPI) Create(_ context.Context, e *corev1.Event) error { return f.write(e, false) }
func (f *fakeAPI) Update(_ context.Context, e *corev1.Event) error { return f.write(e, true) }

// count returns how many writes there were.
func (f *fakeAPI) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

func newRecorder() (f *fakeAPI, r *Recorder, dropped *atomic.Int64) {
	f, dropped = &fakeAPI{events: map[string]*corev1.Event{}}, &atomic.Int64{}
	return f, New(Config{API: f, Node: "node-1", Program: "nmi", Dropped: func() { dropped.Add(1) }, Log: logr.Discard()}), dropped
}

func podName(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

// TestRefusals: there is one Event for each pod and reason, whose count is seldom written.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r, dropped := newRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		for i := range 1000 {
			r.Refused(podName("web"), "u1", "NoMatch", fmt.Sprint("not this ", i))
			r.Refused(podName("web"), "u1", "NoBinding", "bind it")
			r.Refused(podName("api"), "u2", "NoMatch", "not that")
		}
		synctest.Wait()
		if f.count() != 3 || len(f.events) != 3 {
			t.Fatalf("%d writes, %d Events; want 3", f.count(), len(f.events))
		}
		for _, e := range f.events {
			if e.Namespace != "shop" || e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID == "" || e.Type != "Warning" || e.Reason != Reason ||
				!strings.Contains(e.Message, ": ") || e.Source.Host != "node-1" || !strings.HasPrefix(e.Name, e.InvolvedObject.Name+".") {
				t.Errorf("got Event %+v", e)
			}
		}
		<-time.After(updateInterval)
		r.Refused(podName("web"), "u1", "NoMatch", "still not")
		synctest.Wait()
		updated := 0
		for _, e := range f.events {
			if e.Count == 1001 && e.Message == "NoMatch: still not" && e.LastTimestamp.After(e.FirstTimestamp.Time) {
				updated++
			}
		}
		if f.count() != 4 || len(f.events) != 3 || updated != 1 {
			t.Errorf("%d writes, %d Events, %d updated; want 4, 3, 1", f.count(), len(f.events), updated)
		}
		clear(f.events) // the API server has deleted them
		<-time.After(updateInterval)
		r.Refused(podName("web"), "u1", "NoMatch", "again")
		synctest.Wait()
		if len(f.events) != 1 || dropped.Load() != 0 {
			t.Errorf("%d Events, %d dropped; want 1 created again", len(f.events), dropped.Load())
		}
		cancel()
	})
}

// TestNextMistake: after the owner fixed a mistake, the same Event reports the next one sooner than
// after updateInterval.
func TestNextMistake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r, _ := newRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		for _, step := range []struct {
			after   time.Duration
			message string
			writes  int
		}{
			{0, "no Role", 1},
			{changeInterval - time.Second, "wrong key", 1},
			{time.Second, "wrong key", 2},
			{changeInterval, "wrong key", 2},
			{updateInterval - changeInterval, "wrong key", 3},
		} {
			if step.after > 0 {
				<-time.After(step.after)
			}
			r.Refused(podName("web"), "u1", "SourceFailed", step.message)
			synctest.Wait()
			if f.count() != step.writes {
				t.Fatalf("%q after %s: %d writes; want %d", step.message, step.after, f.count(), step.writes)
			}
		}
		for _, e := range f.events {
			if len(f.events) != 1 || e.Message != "SourceFailed: wrong key" {
				t.Errorf("%d Events, one with %q", len(f.events), e.Message)
			}
		}
	})
}

// TestBounds: a pod causes a few Events at most, and all pods together no more than the rate limit.
// None waits for the API server.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r, dropped := newRecorder()
		for i := range 100 {
			r.Refused(podName("web"), "u1", fmt.Sprint("Reason", i), "x")
		}
		if r.queue.Len() != maxPerPod {
			t.Errorf("%d Events of one pod are queued, want %d", r.queue.Len(), maxPerPod)
		}
		for i := range 3 * maxKnown {
			r.Refused(podName(fmt.Sprint("p", i)), types.UID(fmt.Sprint(i)), "NoMatch", "x")
		}
		if r.queue.Len() != maxQueue || len(r.known) > maxKnown || dropped.Load() == 0 {
			t.Errorf("%d queued, %d known, %d dropped", r.queue.Len(), len(r.known), dropped.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		synctest.Wait()
		if f.count() > burst {
			t.Errorf("%d writes at once, want %d at the most", f.count(), burst)
		}
		<-time.After(time.Minute)
		if f.count() > burst+perMinute {
			t.Errorf("%d writes in a minute, want %d at the most", f.count(), burst+perMinute)
		}
		// Expired entries make room for new ones.
		<-time.After(2 * retention)
		r.Refused(podName("late"), "late", "NoMatch", "x")
		synctest.Wait()
		if r.known[key{"late", "NoMatch"}] == nil || len(r.known) > maxKnown || len(r.pods) != len(r.known) {
			t.Errorf("no Event for a new pod: %d known, %d pods", len(r.known), len(r.pods))
		}
		cancel()
	})
}

// TestGreedyNamespace: a namespace whose ever new pods are refused for many reasons does not delay
// the Events of another namespace for long.
func TestGreedyNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r, _ := newRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		pods := 0
		flood := func() {
			for range 100 {
				pods++
				for reason := range maxPerPod {
					name := types.NamespacedName{Namespace: "hostile", Name: fmt.Sprint("p", pods)}
					r.Refused(name, types.UID(name.Name), fmt.Sprint("Reason", reason), "x")
				}
			}
		}
		for range 30 {
			flood()
			<-time.After(time.Second)
		}
		for i := range 5 {
			r.Refused(podName(fmt.Sprint("web-", i)), types.UID(fmt.Sprint("web-", i)), "NoBinding", "bind it")
			flood()
			<-time.After(2*time.Minute/perMinute + time.Second/2) // its turn and the one before it
			f.mu.Lock()
			shop := 0
			for _, e := range f.events {
				if e.Namespace == "shop" {
					shop++
				}
			}
			f.mu.Unlock()
			if shop != i+1 {
				t.Errorf("%d Events of shop, want %d", shop, i+1)
			}
		}
		if len(r.known) > maxKnown {
			t.Errorf("%d known", len(r.known))
		}
	})
}

// TestUnreachable: while the API server is unreachable nothing accumulates, and later it is
// retried.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r, dropped := newRecorder()
		f.down = true
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		for range 100 {
			r.Refused(podName("web"), "u1", "NoMatch", "x")
			synctest.Wait()
		}
		if f.count() != 1 || dropped.Load() != 1 {
			t.Errorf("%d writes, %d dropped; want 1, 1", f.count(), dropped.Load())
		}
		f.down = false
		<-time.After(updateInterval)
		r.Refused(podName("web"), "u1", "NoMatch", "x")
		synctest.Wait()
		if len(f.events) != 1 {
			t.Errorf("%d Events, want 1", len(f.events))
		}
		cancel()
	})
}
