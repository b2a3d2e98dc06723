package assignedidentity

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// TestTooEarly: who is written by one kubectl apply is not told of an identity that is
// still to come, and nobody is told late of what no identity mends.
func TestTooEarly(t *testing.T) {
	now := time.Unix(1000, 0)
	aged := func(age time.Duration) metav1.ObjectMeta {
		return metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-age))}
	}
	old, young := time.Minute, time.Second
	missing := func(binding time.Duration) *identity.Refusal {
		return &identity.Refusal{Reason: identity.IdentityMissing, Binding: &v1.AzureIdentityBinding{ObjectMeta: aged(binding)}}
	}
	leaving := missing(young)
	leaving.Identity = &v1.AzureIdentity{}
	for _, c := range []struct {
		name     string
		pod      time.Duration
		refusals []*identity.Refusal
		want     time.Duration
	}{
		{"nothing refused", young, nil, 0},
		{"all young", young, []*identity.Refusal{missing(young)}, patience},
		{"young pod", young, []*identity.Refusal{missing(old)}, patience},
		{"young binding", old, []*identity.Refusal{missing(young)}, patience},
		{"one of two", old, []*identity.Refusal{missing(old), missing(young)}, patience},
		{"all old", old, []*identity.Refusal{missing(old)}, 0},
		{"waited long enough", patience, []*identity.Refusal{missing(old)}, 0},
		{"broken", young, []*identity.Refusal{{Reason: identity.IdentityBroken, Binding: missing(young).Binding}}, 0},
		{"being deleted", young, []*identity.Refusal{leaving}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: aged(c.pod)}
			if got := tooEarly(pod, c.refusals, now); got != c.want {
				t.Errorf("waits %v, want %v", got, c.want)
			}
		})
	}
}
