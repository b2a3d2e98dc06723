package events

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
)

// refusing is an API server that rejects every Event.
type refusing struct {
	events.EventSink
	err error
}

func (r refusing) Create(context.Context, *eventsv1.Event) (*eventsv1.Event, error) {
	return nil, r.err
}

func TestSink(t *testing.T) {
	resource := schema.GroupResource{Group: "events.k8s.io", Resource: "events"}
	terminating := apierrors.NewForbidden(resource, "e", errors.New("namespace is being terminated"))
	terminating.ErrStatus.Details.Causes = append(terminating.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	for _, test := range []struct {
		name string
		err  error
		loud bool
	}{
		{"namespace terminating", terminating, false},
		{"namespace gone", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "ns"), false},
		{"no right", apierrors.NewForbidden(resource, "e", errors.New("no")), true},
		{"away", &http.MaxBytesError{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := newSink(refusing{err: test.err}).Create(t.Context(), &eventsv1.Event{})
			if (err != nil) != test.loud {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestSinkStopping(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newSink(refusing{err: ctx.Err()}).Create(ctx, &eventsv1.Event{}); err != nil {
		t.Error(err)
	}
}

// slow is an API server whose creations end when the test says so.
type slow struct {
	events.EventSink
	began, end chan struct{}
	changed    chan bool // whether the creation had ended
}

func (s slow) Create(_ context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	close(s.began)
	<-s.end
	return e, nil
}

func (s slow) Patch(_ context.Context, e *eventsv1.Event, _ []byte) (*eventsv1.Event, error) {
	select {
	case <-s.end:
		s.changed <- true
	default:
		s.changed <- false
	}
	return e, nil
}

// TestChangeAfterCreation: an Event is not changed while it is being created.
func TestChangeAfterCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := slow{began: make(chan struct{}), end: make(chan struct{}), changed: make(chan bool, 1)}
		s, event := newSink(api), &eventsv1.Event{}
		event.Namespace, event.Name = "team", "pod.1"
		go func() { _, _ = s.Create(t.Context(), event) }()
		<-api.began
		go func() { _, _ = s.Patch(t.Context(), event, nil) }()
		synctest.Wait()
		close(api.end)
		if !<-api.changed {
			t.Error("changed before it was created")
		}
		if _, err := s.Patch(t.Context(), event, nil); err != nil || len(s.creating) != 0 {
			t.Errorf("%v, %d creations are remembered", err, len(s.creating))
		}
	})
}
