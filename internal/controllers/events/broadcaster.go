// How announcements get to the API server: client-go's broadcaster, less the
// complaints about namespaces that are being deleted.

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

// Broadcaster carries Events to the API server while it runs. It is a runnable of
// the manager; the manager's own recorder would log an error with the whole
// event for every pod of a namespace that is deleted, because the API server
// takes no more events there.
type Broadcaster struct {
	broadcaster events.EventBroadcaster
}

// NewBroadcaster returns a Broadcaster that has yet to be started.
func NewBroadcaster(kube *rest.Config, client *http.Client) (*Broadcaster, error) {
	api, err := typedeventsv1.NewForConfigAndClient(kube, client)
	if err != nil {
		return nil, fmt.Errorf("make client for events: %w", err)
	}
	return &Broadcaster{broadcaster: events.NewBroadcaster(sink{&events.EventSinkImpl{Interface: api}})}, nil
}

// Recorder returns where to announce. What is announced while the Broadcaster
// does not run is dropped.
func (b *Broadcaster) Recorder(scheme *runtime.Scheme, reporter string) Recorder {
	return b.broadcaster.NewRecorder(scheme, reporter)
}

// NeedLeaderElection says that a standby runs it, too: it has nothing to say,
// and nothing is to be lost when it becomes the leader.
func (b *Broadcaster) NeedLeaderElection() bool { return false }

// Start carries events until the context ends, and then what is under way.
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

// sink takes a namespace that is being deleted, or is gone, for an answer, and so
// the end of the program.
type sink struct{ events.EventSink }

// Create is events.EventSink.
func (s sink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	created, err := s.EventSink.Create(ctx, event)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) || ctx.Err() != nil {
		return event, nil //nolint:nilerr // nobody could do anything about it
	}
	return created, err
}

// Patch is events.EventSink.
func (s sink) Patch(ctx context.Context, event *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	patched, err := s.EventSink.Patch(ctx, event, data)
	if ctx.Err() != nil {
		return event, nil //nolint:nilerr // the program stops
	}
	return patched, err
}
