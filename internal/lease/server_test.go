// An API server with one Lease, and ways to it that fail.

package lease

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

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
