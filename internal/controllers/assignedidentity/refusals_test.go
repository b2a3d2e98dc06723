package assignedidentity

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/policy"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// TestTooEarly: a missing identity is not reported for objects that one kubectl apply has just
// created. Refusals that no new identity can fix are reported without delay.
func TestTooEarly(t *testing.T) {
	now := time.Unix(1000, 0)
	aged := func(age time.Duration) metav1.ObjectMeta {
		return metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-age))}
	}
	old, young := time.Minute, time.Second
	missing := func(binding time.Duration) *reason.Refusal {
		return &reason.Refusal{Reason: reason.IdentityMissing, Binding: &v1.AzureIdentityBinding{ObjectMeta: aged(binding)}}
	}
	leaving := missing(young)
	leaving.Identity = &v1.AzureIdentity{}
	for _, c := range []struct {
		name     string
		pod      time.Duration
		refusals []*reason.Refusal
		want     time.Duration
	}{
		{"nothing refused", young, nil, 0},
		{"all young", young, []*reason.Refusal{missing(young)}, minAge},
		{"young pod", young, []*reason.Refusal{missing(old)}, minAge},
		{"young binding", old, []*reason.Refusal{missing(young)}, minAge},
		{"one of two", old, []*reason.Refusal{missing(old), missing(young)}, minAge},
		{"all old", old, []*reason.Refusal{missing(old)}, 0},
		{"waited long enough", minAge, []*reason.Refusal{missing(old)}, 0},
		{"broken", young, []*reason.Refusal{{Reason: reason.IdentityBroken, Binding: missing(young).Binding}}, 0},
		{"being deleted", young, []*reason.Refusal{leaving}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: aged(c.pod)}
			if got := tooEarly(pod, c.refusals, now); got != c.want {
				t.Errorf("waits %v, want %v", got, c.want)
			}
		})
	}
}

// lonely is a cluster with one binding whose identity does not exist.
type lonely struct {
	client.Client
	binding v1.AzureIdentityBinding
}

func (l lonely) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1.AzureIdentityBindingList).Items = []v1.AzureIdentityBinding{l.binding}
	return nil
}

func (lonely) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

// The test's Recorder counts Events.
type eventCount int

func (n *eventCount) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {
	*n++
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born, sent := time.Now(), eventCount(0)
		r := NewController(Parts{
			Client: lonely{binding: v1.AzureIdentityBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "b", CreationTimestamp: metav1.NewTime(born)},
				Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: "gone", Selector: "web"},
			}},
			Rules: policy.Fixed(identity.Rules{}), Events: events.New(&sent), Queue: &wakeup.Objects{},
		}, 1)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "p", Labels: map[string]string{v1.BindingLabel: "web"}}}
		for _, c := range []struct {
			age, hold time.Duration
			events    eventCount
		}{{0, minAge, 0}, {minAge, 0, 1}, {2 * minAge, 0, 1}} {
			<-time.After(time.Until(born.Add(c.age)))
			if _, hold, err := r.grants(t.Context(), pod); err != nil || hold != c.hold || sent != c.events {
				t.Errorf("after %v: holds %v, %d events, error %v", c.age, hold, sent, err)
			}
		}
	})
}
