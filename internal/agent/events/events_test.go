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
	"unicode/utf8"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// fakeAPI keeps Events as the API server does, and can be away.
type fakeAPI struct {
	mu     sync.Mutex
	events map[string]*corev1.Event
	writes int
	away   bool
}

func (f *fakeAPI) write(e *corev1.Event, exists bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.away {
		return errors.New("connection refused")
	}
	if _, there := f.events[e.Name]; exists && !there {
		return fmt.Errorf("update: %w", apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, e.Name))
	}
	f.events[e.Name] = e
	return nil
}

func (f *fakeAPI) Create(_ context.Context, e *corev1.Event) error { return f.write(e, false) }
func (f *fakeAPI) Update(_ context.Context, e *corev1.Event) error { return f.write(e, true) }

// made is how many writes there were.
func (f *fakeAPI) made() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

func newRecorder(f *fakeAPI) (r *Recorder, dropped *atomic.Int64) {
	dropped = &atomic.Int64{}
	return New(Config{API: f, Node: "node-1", Program: "nmi", Dropped: func() { dropped.Add(1) }, Log: logr.Discard()}), dropped
}

func podName(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

// TestRefusals: one Event for each pod and reason, counted up, seldom written.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAPI{events: map[string]*corev1.Event{}}
		r, dropped := newRecorder(f)
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		for i := range 1000 {
			r.Refused(podName("web"), "u1", "NoMatch", fmt.Sprint("not this ", i))
			r.Refused(podName("web"), "u1", "NoBinding", "bind it")
			r.Refused(podName("api"), "u2", "NoMatch", "not that")
		}
		synctest.Wait()
		if f.made() != 3 || len(f.events) != 3 {
			t.Fatalf("%d writes, %d events; want 3", f.made(), len(f.events))
		}
		for _, e := range f.events {
			if e.Namespace != "shop" || e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID == "" || e.Type != "Warning" || e.Reason != Reason ||
				!strings.Contains(e.Message, ": ") || e.Source.Host != "node-1" || !strings.HasPrefix(e.Name, e.InvolvedObject.Name+".") {
				t.Errorf("odd event %+v", e)
			}
		}
		<-time.After(sayAgain)
		r.Refused(podName("web"), "u1", "NoMatch", "still not")
		synctest.Wait()
		updated := 0
		for _, e := range f.events {
			if e.Count == 1001 && e.Message == "NoMatch: still not" && e.LastTimestamp.After(e.FirstTimestamp.Time) {
				updated++
			}
		}
		if f.made() != 4 || len(f.events) != 3 || updated != 1 {
			t.Errorf("%d writes, %d events, %d updated; want 4, 3, 1", f.made(), len(f.events), updated)
		}
		clear(f.events) // the API server has forgotten them
		<-time.After(sayAgain)
		r.Refused(podName("web"), "u1", "NoMatch", "again")
		synctest.Wait()
		if len(f.events) != 1 || dropped.Load() != 0 {
			t.Errorf("%d events, %d dropped; want 1 made anew", len(f.events), dropped.Load())
		}
		cancel()
	})
}

// TestNextMistake: who has put one mistake right is told of the next without
// waiting ten minutes, on the same Event.
func TestNextMistake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAPI{events: map[string]*corev1.Event{}}
		r, _ := newRecorder(f)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		for _, step := range []struct {
			after   time.Duration
			message string
			writes  int
		}{
			{0, "no Role", 1},
			{sayChanged - time.Second, "wrong key", 1},
			{time.Second, "wrong key", 2},
			{sayChanged, "wrong key", 2},
			{sayAgain - sayChanged, "wrong key", 3},
		} {
			if step.after > 0 {
				<-time.After(step.after)
			}
			r.Refused(podName("web"), "u1", "SourceFailed", step.message)
			synctest.Wait()
			if f.made() != step.writes {
				t.Fatalf("%q after %s: %d writes; want %d", step.message, step.after, f.made(), step.writes)
			}
		}
		for _, e := range f.events {
			if len(f.events) != 1 || e.Message != "SourceFailed: wrong key" {
				t.Errorf("%d events, one says %q", len(f.events), e.Message)
			}
		}
	})
}

// TestBounds: a pod cannot cause more than a few Events, all pods together no
// more than the budget, and none waits for the API server.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAPI{events: map[string]*corev1.Event{}}
		r, dropped := newRecorder(f)
		for i := range 100 {
			r.Refused(podName("web"), "u1", fmt.Sprint("Reason", i), "x")
		}
		if r.queue.Len() != maxPerPod {
			t.Errorf("%d events of one pod wait, want %d", r.queue.Len(), maxPerPod)
		}
		for i := range 3 * maxKnown {
			r.Refused(podName(fmt.Sprint("p", i)), types.UID(fmt.Sprint(i)), "NoMatch", "x")
		}
		if r.queue.Len() != maxQueue || len(r.known) > maxKnown || dropped.Load() == 0 {
			t.Errorf("%d wait, %d known, %d dropped", r.queue.Len(), len(r.known), dropped.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		synctest.Wait()
		if f.made() > burst {
			t.Errorf("%d writes at once, want %d at the most", f.made(), burst)
		}
		<-time.After(time.Minute)
		if f.made() > burst+perMinute {
			t.Errorf("%d writes in a minute, want %d at the most", f.made(), burst+perMinute)
		}
		// What has not occurred for long makes room for what does.
		<-time.After(2 * forget)
		r.Refused(podName("late"), "late", "NoMatch", "x")
		synctest.Wait()
		if r.known[key{"late", "NoMatch"}] == nil || len(r.known) > maxKnown || len(r.pods) != len(r.known) {
			t.Errorf("a new pod is not told of: %d known, %d pods", len(r.known), len(r.pods))
		}
		cancel()
	})
}

// TestGreedyNamespace: a namespace whose pods are refused for all that there is, again and again under
// new names, keeps no Event of another namespace waiting for long.
func TestGreedyNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAPI{events: map[string]*corev1.Event{}}
		r, _ := newRecorder(f)
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
			<-time.After(2*time.Minute/perMinute + time.Second/2) // its turn and one before
			f.mu.Lock()
			shop := 0
			for _, e := range f.events {
				if e.Namespace == "shop" {
					shop++
				}
			}
			f.mu.Unlock()
			if shop != i+1 {
				t.Errorf("%d events of shop, want %d", shop, i+1)
			}
		}
		if len(r.known) > maxKnown {
			t.Errorf("%d known", len(r.known))
		}
	})
}

// TestAway: with the API server away nothing piles up, and it is tried again.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAPI{events: map[string]*corev1.Event{}, away: true}
		r, dropped := newRecorder(f)
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		for range 100 {
			r.Refused(podName("web"), "u1", "NoMatch", "x")
			synctest.Wait()
		}
		if f.made() != 1 || dropped.Load() != 1 {
			t.Errorf("%d writes, %d dropped; want 1, 1", f.made(), dropped.Load())
		}
		f.away = false
		<-time.After(sayAgain)
		r.Refused(podName("web"), "u1", "NoMatch", "x")
		synctest.Wait()
		if len(f.events) != 1 {
			t.Errorf("%d events, want 1", len(f.events))
		}
		cancel()
	})
}

func TestCut(t *testing.T) {
	for _, s := range []string{"short", strings.Repeat("x", maxMessage), strings.Repeat("ä", maxMessage), strings.Repeat("x", 5*maxMessage)} {
		got := cut(s)
		if len(got) > maxMessage || !utf8.ValidString(got) || len(s) <= maxMessage && got != s {
			t.Errorf("%d bytes become %d", len(s), len(got))
		}
	}
}
