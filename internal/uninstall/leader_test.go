package uninstall

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// leases is an API server that has Leases only.
type leases func() []coordinationv1.Lease

// Get is client.Reader.
func (leases) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.ErrUnsupported
}

// List is client.Reader.
func (l leases) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	if list, ok := list.(*coordinationv1.LeaseList); ok {
		list.Items = l()
	}
	return nil
}

// A holder is alive if it renews the lock within its duration by this machine's clock, whatever its
// own clock says.
func TestLeaders(t *testing.T) {
	const duration, renewal = 8 * time.Second, 2 * time.Second
	for _, c := range []struct {
		name   string
		holder string
		skew   time.Duration // of the holder's clock
		dead   bool          // it no longer renews
		leads  bool
		takes  time.Duration // at most
	}{
		{"alive", "mic", 0, false, true, 3 * time.Second},
		{"alive, its clock an hour behind", "mic", -time.Hour, false, true, 3 * time.Second},
		{"alive, its clock an hour ahead", "mic", time.Hour, false, true, 3 * time.Second},
		{"dead", "mic", 0, true, false, duration + 2*time.Second},
		{"dead, its clock an hour ahead", "mic", time.Hour, true, false, duration + 2*time.Second},
		{"released", "", 0, true, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				waits := 0
				l := &Leaders{
					Lease: "mic", Now: time.Now,
					Wait:    func(_ context.Context, d time.Duration) error { <-time.After(d); return nil },
					Waiting: func(*LeaderError, time.Duration) { waits++ },
					Reader: leases(func() []coordinationv1.Lease {
						renewed := began.Add(c.skew)
						if !c.dead {
							renewed = renewed.Add(time.Since(began).Truncate(renewal))
						}
						return []coordinationv1.Lease{{
							ObjectMeta: metav1.ObjectMeta{Namespace: "podid", Name: "mic", UID: "u"},
							Spec: coordinationv1.LeaseSpec{
								HolderIdentity: &c.holder, LeaseDurationSeconds: new(int32(duration / time.Second)), RenewTime: new(metav1.NewMicroTime(renewed)),
							},
						}}
					}),
				}
				err := l.Check(t.Context())
				if _, leads := errors.AsType[*LeaderError](err); leads != c.leads || err != nil && !leads {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took > c.takes {
					t.Errorf("took %v", took)
				}
				if want := min(len(c.holder), 1); waits != want {
					t.Errorf("Waiting called %d times, want %d", waits, want)
				}
				// A second check does not wait, and a holder that comes back counts.
				again := time.Now()
				if err := l.Check(t.Context()); (err != nil) != c.leads || time.Since(again) > 0 {
					t.Errorf("again: error %v after %v", err, time.Since(again))
				}
				if c.dead && c.holder != "" {
					c.dead = false
					if err := l.Check(t.Context()); err == nil {
						t.Error("a holder that came back does not count")
					}
				}
			})
		})
	}
}

// The wait ends with the context.
func TestLeadersEnd(t *testing.T) {
	ended := errors.New("ended")
	l := &Leaders{
		Now: time.Now, Wait: func(context.Context, time.Duration) error { return ended },
		Reader: leases(func() []coordinationv1.Lease {
			return []coordinationv1.Lease{{Spec: coordinationv1.LeaseSpec{
				HolderIdentity: new("mic"), LeaseDurationSeconds: new(int32(8)), RenewTime: new(metav1.NowMicro()),
			}}}
		}),
	}
	if err := l.Check(t.Context()); !errors.Is(err, ended) {
		t.Errorf("error %v", err)
	}
}
