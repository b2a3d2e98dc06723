// The transport of Events: client-go's broadcaster without the errors about namespaces that are
// being deleted.

package events

import (
	"context"
	"fmt"
	"net/http"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
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
	return &Broadcaster{broadcaster: events.NewBroadcaster(sink{&events.EventSinkImpl{Interface: api}})}, nil
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

// sink ignores errors that are caused by a namespace being deleted, or by shutdown.
type sink struct{ events.EventSink }

// Create implements events.EventSink.
func (s sink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	created, err := s.EventSink.Create(ctx, event)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) || ctx.Err() != nil {
		return event, nil //nolint:nilerr // there is nothing to fix
	}
	return created, err
}

// Patch implements events.EventSink.
func (s sink) Patch(ctx context.Context, event *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	patched, err := s.EventSink.Patch(ctx, event, data)
	if ctx.Err() != nil {
		return event, nil //nolint:nilerr // the program is stopping
	}
	return patched, err
}
