package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const duration = 8 * time.Second

var errAway = errors.New("connection refused")

// server is an API server with one Lease, or none.
type server struct {
	mu       sync.Mutex
	version  int
	lease    *coordinationv1.Lease
	watchers map[*watcher]bool
	writes   int
}

type watcher struct {
	*watch.FakeWatcher
	line *line
	once sync.Once
	s    *server
}

func (w *watcher) Stop() {
	w.once.Do(func() {
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		delete(w.s.watchers, w)
	})
}

func newServer() *server { return &server{watchers: map[*watcher]bool{}} }

var resource = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

// put stores a new version. The caller holds the lock.
func (s *server) put(lease *coordinationv1.Lease, event watch.EventType) *coordinationv1.Lease {
	s.version++
	s.writes++
	stored := lease.DeepCopy()
	stored.ResourceVersion = strconv.Itoa(s.version)
	s.lease = stored
	if event == watch.Deleted {
		s.lease = nil
	}
	for w := range s.watchers {
		if !w.line.silent {
			w.Action(event, stored.DeepCopy())
		}
	}
	return stored.DeepCopy()
}

// line is one replica's way to the server.
type line struct {
	s *server

	cut     bool          // no request arrives
	lost    bool          // requests arrive, answers do not
	silent  bool          // watches tell nothing
	noWatch bool          // no right to watch
	delay   time.Duration // of each answer
	asked   int
}

func (l *line) begin(ctx context.Context) error {
	l.s.mu.Lock()
	l.asked++
	cut := l.cut
	l.s.mu.Unlock()
	if cut {
		return errAway
	}
	return ctx.Err()
}

func (l *line) end(ctx context.Context) error {
	l.s.mu.Lock()
	delay, lost := l.delay, l.lost
	l.s.mu.Unlock()
	if lost {
		<-ctx.Done()
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (l *line) Get(ctx context.Context, name string, _ metav1.GetOptions) (*coordinationv1.Lease, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	lease := l.s.lease.DeepCopy()
	l.s.mu.Unlock()
	if err := l.end(ctx); err != nil {
		return nil, err
	}
	if lease == nil {
		return nil, apierrors.NewNotFound(resource, name)
	}
	return lease, nil
}

func (l *line) Create(ctx context.Context, lease *coordinationv1.Lease, _ metav1.CreateOptions) (*coordinationv1.Lease, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	if l.s.lease != nil {
		l.s.mu.Unlock()
		return nil, apierrors.NewAlreadyExists(resource, lease.Name)
	}
	stored := l.s.put(lease, watch.Added)
	l.s.mu.Unlock()
	return stored, l.end(ctx)
}

func (l *line) Update(ctx context.Context, lease *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	if l.s.lease == nil || l.s.lease.ResourceVersion != lease.ResourceVersion {
		l.s.mu.Unlock()
		return nil, apierrors.NewConflict(resource, lease.Name, errors.New("changed"))
	}
	stored := l.s.put(lease, watch.Modified)
	l.s.mu.Unlock()
	return stored, l.end(ctx)
}

func (l *line) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.noWatch {
		return nil, apierrors.NewForbidden(resource, "", errors.New("no"))
	}
	if o.FieldSelector != "metadata.name=mic" {
		return nil, fmt.Errorf("selector %q", o.FieldSelector)
	}
	w := &watcher{FakeWatcher: watch.NewFakeWithChanSize(1000, false), line: l, s: l.s}
	if l.s.lease != nil && l.s.lease.ResourceVersion != o.ResourceVersion && !l.silent {
		w.Modify(l.s.lease.DeepCopy())
	}
	l.s.watchers[w] = true
	return w, nil
}

// set changes a line.
func (l *line) set(f func(*line)) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	f(l)
}

// replica is a process with one term.
type replica struct {
	*line
	name string
	stop context.CancelFunc // SIGTERM
	done chan struct{}

	world *world
}

// world notes who leads. A process that was killed leads no more.
type world struct {
	t       *testing.T
	mu      sync.Mutex
	leading map[string]bool
	killed  map[string]bool
	lost    map[string]error
}

func newWorld(t *testing.T) *world {
	return &world{t: t, leading: map[string]bool{}, killed: map[string]bool{}, lost: map[string]error{}}
}

func (w *world) note(name string, leads bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leading[name] = leads && !w.killed[name]; !leads {
		delete(w.leading, name)
	}
	n := 0
	for _, l := range w.leading {
		if l {
			n++
		}
	}
	if n > 1 {
		w.t.Errorf("%d leaders: %v", n, w.leading)
	}
}

// told is why a replica had to stop.
func (w *world) told(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[name]
}

func (w *world) leader() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, leads := range w.leading {
		if leads {
			return name
		}
	}
	return ""
}

// run starts a replica, as a term of MIC does.
func (w *world) run(s *server, name string) *replica {
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &replica{line: &line{s: s}, name: name, stop: cancel, done: make(chan struct{}), world: w}
	lock := New(Config{
		Leases: r.line, Namespace: "default", Name: "mic", Identity: name, Times: TimesOf(duration),
		Lost: func(err error) {
			w.note(name, false)
			w.mu.Lock()
			w.lost[name] = err
			w.mu.Unlock()
			cancel()
		},
		Asked: func(error) {},
	})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: lock.config.Times.Duration, RenewDeadline: lock.config.Times.GiveUp, RetryPeriod: lock.config.Times.Tick,
		ReleaseOnCancel: true, Name: "mic",
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				if ctx.Err() == nil {
					w.note(name, true)
				}
			},
			OnStoppedLeading: func() { w.note(name, false) },
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	following, end := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(r.done)
		electing, cancelElection := context.WithCancel(context.WithoutCancel(ctx))
		elected := make(chan struct{})
		go func() {
			defer close(elected)
			elector.Run(electing)
		}()
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			lock.Run(following)
		}()
		<-ctx.Done()
		w.note(name, false) // the work stops first
		cancelElection()
		<-elected
		end()
		<-followed
	}()
	return r
}

// kill is kill -9.
func (r *replica) kill() {
	r.set(func(l *line) { l.cut = true })
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	r.world.killed[r.name] = true
	delete(r.world.leading, r.name)
}

// within waits until somebody leads, and returns how long that took.
func (w *world) within(limit time.Duration, name string) time.Duration {
	w.t.Helper()
	began := time.Now()
	for w.leader() != name {
		if time.Since(began) > limit {
			w.t.Fatalf("%s does not lead within %v, but %q", name, limit, w.leader())
		}
		<-time.After(10 * time.Millisecond)
		synctest.Wait()
	}
	return time.Since(began)
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

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

func TestRelease(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.stop()
		t.Log(w.within(500*time.Millisecond, "two"))
	})
}

func TestKilled(t *testing.T) {
	story(t, func(t *testing.T, w *world, _ *server, one, two *replica) {
		one.kill()
		t.Log(w.within(duration+500*time.Millisecond, "two"))
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

// TestHistories: whatever happens to the lines of three replicas, never two lead,
// and when all is well again, one does.
func TestHistories(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // repeatable
				w, s := newWorld(t), newServer()
				replicas := map[string]*replica{}
				for step := range 60 {
					name := []string{"a", "b", "c"}[random.IntN(3)]
					r := replicas[name]
					if r == nil {
						// A process of its own name each time, as pods have.
						replicas[name] = w.run(s, name+strconv.Itoa(step))
						continue
					}
					switch random.IntN(8) {
					case 0:
						r.stop()
						<-r.done
						replicas[name] = nil
					case 1:
						r.kill()
						defer r.stop()
						replicas[name] = nil
					default:
						r.set(func(l *line) {
							l.cut, l.lost, l.silent = random.IntN(4) == 0, random.IntN(6) == 0, random.IntN(3) == 0
							l.delay = time.Duration(random.Int64N(int64(3 * time.Second)))
						})
					}
					pass(time.Duration(random.Int64N(int64(6 * time.Second))))
					for n, r := range replicas {
						if r != nil && w.told(r.name) != nil { // its next term
							<-r.done
							replicas[n] = nil
						}
					}
				}
				for n, r := range replicas {
					if r == nil {
						replicas[n] = w.run(s, n)
						continue
					}
					r.set(func(l *line) { l.cut, l.lost, l.silent, l.delay = false, false, false, 0 })
				}
				pass(3 * duration)
				leads := w.leader()
				if leads == "" {
					t.Error("nobody leads")
				}
				for _, r := range replicas {
					if r != nil {
						r.stop()
						<-r.done
					}
				}
			})
		})
	}
}
