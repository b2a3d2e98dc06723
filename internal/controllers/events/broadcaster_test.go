package events

import (
	"context"
	"errors"
	"net/http"
	"testing"

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
			_, err := sink{refusing{err: test.err}}.Create(t.Context(), &eventsv1.Event{})
			if (err != nil) != test.loud {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestSinkStopping(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (sink{refusing{err: ctx.Err()}}).Create(ctx, &eventsv1.Event{}); err != nil {
		t.Error(err)
	}
}
