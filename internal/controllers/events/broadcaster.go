// The transport of Events: client-go's broadcaster without the errors about namespaces that are
// being deleted.

package events

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
)

// Broadcaster sends Events to the API server while it runs. It is a manager.Runnable.
//
// The API server rejects Events in a namespace that is being deleted. The manager's own recorder
// would log an error with the whole Event for every pod in it.
type Broadcaster struct {
	broadcaster events.EventBroadcaster
}

// NewBroadcaster returns a Broadcaster, which the caller has to start.
func NewBroadcaster(kube *rest.Config, client *http.Client) (*Broadcaster, error) {
	api, err := typedeventsv1.NewForConfigAndClient(kube, client)
	if err != nil {
		return nil, fmt.Errorf("make client for events: %w", err)
	}
	return &Broadcaster{broadcaster: events.NewBroadcaster(newSink(&events.EventSinkImpl{Interface: api}))}, nil
}

// Recorder returns a recorder that emits through the Broadcaster. Events are dropped while the
// Broadcaster does not run.
func (b *Broadcaster) Recorder(scheme *runtime.Scheme, reporter string) Recorder {
	return b.broadcaster.NewRecorder(scheme, reporter)
}

// NeedLeaderElection returns false. A standby emits nothing, and no Event is lost when it becomes
// the leader.
func (b *Broadcaster) NeedLeaderElection() bool { return false }

// Start sends Events until the context ends, and then flushes those in flight.
func (b *Broadcaster) Start(ctx context.Context) error {
	recording, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err := b.broadcaster.StartRecordingToSinkWithContext(recording); err != nil {
		return fmt.Errorf("start to record events: %w", err)
	}
	stop, err := b.broadcaster.StartLogging(logr.FromContextOrDiscard(ctx).V(1))
	if err != nil {
		return fmt.Errorf("start to log events: %w", err)
	}
	defer stop()
	<-ctx.Done()
	b.broadcaster.Shutdown()
	return nil
}

// sink ignores errors that are caused by a namespace being deleted, or by shutdown. It does not
// change an Event before its creation has ended: client-go sends both at once if the Event recurs
// at once, and a change that comes first is refused and sent again only after ten seconds.
type sink struct {
	events.EventSink
	mu       sync.Mutex
	creating map[types.NamespacedName]chan struct{} // closed when the creation ends
}

func newSink(to events.EventSink) *sink {
	return &sink{EventSink: to, creating: map[types.NamespacedName]chan struct{}{}}
}

// begin records that an Event is being created, until the function that it returns is called.
func (s *sink) begin(event *eventsv1.Event) (end func()) {
	key, done := types.NamespacedName{Namespace: event.Namespace, Name: event.Name}, make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creating[key] = done
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.creating[key] == done {
			delete(s.creating, key)
		}
		close(done)
	}
}

// awaitCreation waits until an Event is not being created.
func (s *sink) awaitCreation(ctx context.Context, event *eventsv1.Event) {
	s.mu.Lock()
	done := s.creating[types.NamespacedName{Namespace: event.Namespace, Name: event.Name}]
	s.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Create implements events.EventSink.
func (s *sink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	defer s.begin(event)()
	created, err := s.EventSink.Create(ctx, event)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) || ctx.Err() != nil {
		return event, nil // there is nothing to fix
	}
	return created, err
}

// Patch implements events.EventSink.
func (s *sink) Patch(ctx context.Context, event *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	s.awaitCreation(ctx, event)
	patched, err := s.EventSink.Patch(ctx, event, data)
	if ctx.Err() != nil {
		return event, nil //nolint:nilerr // the program is stopping
	}
	return patched, err
}
