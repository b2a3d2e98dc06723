package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// story runs one with a leader, one, and a standby, two.
func story(t *testing.T, tell func(t *testing.T, w *world, s *server, one, two *replica)) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld(t), newServer()
		one := w.run(s, "one")
		w.within(time.Second, "one")
		two := w.run(s, "two")
		pass(20 * time.Second)
		tell(t, w, s, one, two)
		one.stop()
		two.stop()
		<-one.done
		<-two.done
	})
}

func TestIdle(t *testing.T) {
	story(t, func(t *testing.T, w *world, s *server, one, two *replica) {
		s.mu.Lock()
		writes, asked := s.writes, two.asked
		s.mu.Unlock()
		pass(time.Minute)
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := s.writes - writes; n < 26 || n > 31 {
			t.Errorf("%d renewals a minute, want one every 2 s", n)
		}
		if n := two.asked - asked; n > 0 {
			t.Errorf("a standby asked %d times", n)
		}
	})
}

// TestRest: a leader is not looking all the time for what is not due.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := TimesOf(duration)
		lock := New(Config{Leases: &line{s: newServer()}, Name: "mic", Identity: "me", Times: times, Lost: func(error) {}, Asked: func(error) {}})
		me := resourcelock.LeaderElectionRecord{HolderIdentity: "me"}
		began := time.Now()
		if err := lock.Create(t.Context(), me); err != nil {
			t.Fatal(err)
		}
		update := func(ctx context.Context, r resourcelock.LeaderElectionRecord, want time.Duration) {
			t.Helper()
			if err := lock.Update(ctx, r); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("done %v after the last renewal, want %v", took, want)
			}
		}
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		update(brief, me, time.Second) // told to go
		update(t.Context(), me, times.renew-times.Tick)
		pass(times.Tick)
		update(t.Context(), me, times.renew) // written
		began = time.Now()
		update(t.Context(), resourcelock.LeaderElectionRecord{}, 0) // released
	})
}

func TestRelease(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.stop()
		t.Log(w.within(500*time.Millisecond, "two"))
	})
}

// TestKilled: a standby sees a renewal with its next look, and that it is over with
// another one, each at most 2.2 ticks late.
func TestKilled(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.kill()
		t.Log(w.within(duration+900*time.Millisecond, "two"))
	})
}

// TestOutage: the leader stops before anybody else may lead, and the first to reach
// the API server again leads.
func TestOutage(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.set(func(l *line) { l.cut = true })
		two.set(func(l *line) { l.cut = true })
		pass(duration * 3 / 4)
		if leader := w.leader(); leader != "" {
			t.Errorf("%s leads", leader)
		}
		pass(time.Minute)
		if asked := two.asked; asked > 300 {
			t.Errorf("asked %d times", asked)
		}
		two.set(func(l *line) { l.cut = false })
		w.within(2*time.Second, "two")
	})
}

// TestBlip: an outage shorter than the give-up costs nobody the Lease.
func TestBlip(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.set(func(l *line) { l.cut = true })
		two.set(func(l *line) { l.cut = true })
		pass(duration / 4)
		one.set(func(l *line) { l.cut = false })
		two.set(func(l *line) { l.cut = false })
		pass(time.Minute)
		if w.leader() != "one" {
			t.Errorf("%q leads", w.leader())
		}
	})
}

// TestAnswersLost: renewals arrive, but their answers do not.
func TestAnswersLost(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.set(func(l *line) { l.lost = true })
		w.within(4*duration, "two")
	})
}

// TestStaleWatch: a standby whose watch tells nothing does not lead, however long
// nothing changes in its memory.
func TestStaleWatch(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		two.set(func(l *line) { l.silent = true })
		pass(5 * time.Minute)
		if w.leader() != "one" {
			t.Errorf("%q leads", w.leader())
		}
		one.kill()
		w.within(2*duration, "two")
	})
}

// TestNoWatch: without the right to watch, reading has to do.
func TestNoWatch(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		two.set(func(l *line) { l.noWatch = true })
		pass(time.Minute)
		one.stop()
		w.within(2*time.Second, "two")
	})
}

// TestTaken: a leader that sees another holder stops at once, and leaves that
// one's Lease alone.
func TestTaken(t *testing.T) {
	for name, change := range map[string]func(s *server){
		"by another": func(s *server) {
			taken := s.lease.DeepCopy()
			thief := "thief"
			taken.Spec.HolderIdentity = &thief
			s.put(taken, watch.Modified)
		},
		"away": func(s *server) { s.put(s.lease, watch.Deleted) },
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T, w *world, s *server, one, two *replica) {
				two.kill()
				s.mu.Lock()
				change(s)
				s.mu.Unlock()
				synctest.Wait()
				if w.leader() != "" {
					t.Errorf("%q leads", w.leader())
				}
				<-one.done
				if w.told("one") == nil {
					t.Error("was not told")
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.lease != nil && holderOf(s.lease) != "thief" {
					t.Errorf("the Lease is %q's", holderOf(s.lease))
				}
			})
		})
	}
}

// TestConflict: the elector decides on what it saw. What came in since is not to be
// overwritten.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		l := &line{s: s}
		lock := New(Config{Leases: l, Name: "mic", Identity: "me", Times: TimesOf(duration), Lost: func(error) {}, Asked: func(error) {}})
		ctx, cancel := context.WithCancel(t.Context())
		other := "other"
		s.mu.Lock()
		s.put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "mic"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &other}}, watch.Added)
		s.mu.Unlock()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			lock.Run(ctx)
		}()
		r, _, err := lock.Get(ctx)
		if err != nil || r.HolderIdentity != "other" {
			t.Fatal(r, err)
		}
		s.mu.Lock()
		s.put(s.lease, watch.Modified) // the other renews
		s.mu.Unlock()
		synctest.Wait()
		r.HolderIdentity = "me"
		if err := lock.Update(ctx, *r); !apierrors.IsConflict(err) {
			t.Errorf("error %v, want a conflict", err)
		}
		cancel()
		<-ended
	})
}

// TestLateEvent: what the watch tells about the time before a write of ours is no
// reason to stop; what it tells about the time after is.
func TestLateEvent(t *testing.T) {
	var lost error
	s := newServer()
	lock := New(Config{
		Leases: &line{s: s}, Name: "mic", Identity: "me", Times: TimesOf(duration),
		Lost: func(err error) { lost = err }, Asked: func(error) {},
	})
	s.version = 10
	if err := lock.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"}); err != nil {
		t.Fatal(err)
	}
	other := "other"
	for _, c := range []struct {
		version string
		lost    bool
	}{{"9", false}, {"12", true}} {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{ResourceVersion: c.version}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &other}}
		if err := lock.take(watch.Event{Type: watch.Modified, Object: lease}); err != nil {
			t.Fatal(err)
		}
		if (lost != nil) != c.lost {
			t.Errorf("version %s: lost: %v", c.version, lost)
		}
	}
}

// TestAsked: a standby notices an API server that is away even if its watch does not.
func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		l := &line{s: s}
		var mu sync.Mutex
		var last error
		lock := New(Config{
			Leases: l, Name: "mic", Identity: "me", Times: TimesOf(duration), Lost: func(error) {},
			Asked: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				last = err
			},
		})
		s.mu.Lock()
		s.put(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "mic"}}, watch.Added)
		s.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			lock.Run(ctx)
		}()
		pass(time.Minute)
		l.set(func(l *line) { l.cut = true })
		pass(duration)
		mu.Lock()
		if !errors.Is(last, errAway) {
			t.Errorf("noted %v", last)
		}
		mu.Unlock()
		cancel()
		<-ended
	})
}
