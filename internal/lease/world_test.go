// Processes that compete for the Lease, as MICs do, and who of them leads.

package lease

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/leaderelection"
)

const duration = 8 * time.Second

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
