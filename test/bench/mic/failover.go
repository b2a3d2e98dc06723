// Row failover: the leader is killed or terminated, and a second MIC takes over.

package mic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

// leaseName is MIC's default; its namespace is "default".
const leaseName = "aad-pod-identity-mic"

func quit() os.Signal { return syscall.SIGTERM }

// failover kills or terminates the leader, as often as the options say. At that moment it creates a
// pod whose identity is on the scale set already.
func (b *bench) failover(ctx context.Context, step *progress.Step) error {
	s := shape{nodes: 4, sets: 1, identities: 1, arm: usualARM}
	return b.running(ctx, s, func(ctx context.Context, c *cluster, leader *program) error {
		p := newPod("first", 0, nodeName(0))
		if err := c.create(ctx, p); err != nil {
			return err
		}
		if _, err := c.seen.pod(ctx, key(p)); err != nil {
			return err
		}
		f := &failovers{bench: b, cluster: c, leader: leader}
		var lease time.Duration
		var killed, terminated, leading []float64
		for i := range b.options.repeat {
			step.Far("%d of %d", i, b.options.repeat)
			for signal, into := range map[os.Signal]*[]float64{syscall.SIGKILL: &killed, syscall.SIGTERM: &terminated} {
				t, err := f.once(ctx, signal)
				if err != nil {
					return err
				}
				*into = append(*into, t.assigned.Seconds())
				if lease = t.lease; signal == syscall.SIGTERM {
					leading = append(leading, t.leading.Seconds())
				}
			}
		}
		r := b.Report
		r.Add("failover.kill", "leader killed (-9): new pod assigned", "s", killed).AtMost(9, measure.Worst).Was("19–25 s").
			Remark("the lease lasts %s", lease)
		r.Add("failover.term", "leader told to end (SIGTERM): the other one leads", "s", leading).AtMost(1.2, measure.Worst)
		r.Add("failover.term.assigned", "… new pod assigned", "s", terminated)
		b.Said = fmt.Sprintf("killed: %.1f s at most, told: %.2f s at most", measure.Worst(killed), measure.Worst(leading))
		return nil
	})
}

// failovers is the state from one leader to the next.
type failovers struct {
	*bench
	*cluster
	leader *program
	n      int
}

// takeover holds the times from the signal until the other MIC led and until a new pod had its
// identity.
type takeover struct{ leading, assigned, lease time.Duration }

func (f *failovers) once(ctx context.Context, signal os.Signal) (takeover, error) {
	f.n++
	next, err := f.mic(f.bench, "mic-"+strconv.Itoa(f.n), f.n)
	if err != nil {
		return takeover{}, err
	}
	if err := next.ready(ctx); err != nil {
		return takeover{}, err
	}
	old, err := f.lease(ctx)
	if err != nil {
		return takeover{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	taken, err := watchLease(ctx, f.Config(), *old.Spec.HolderIdentity)
	if err != nil {
		return takeover{}, err
	}
	measure.Pause(ctx, time.Duration(f.n%4)*time.Second) // a varying time between two renewals
	began := time.Now()
	if err := f.leader.Signal(signal); err != nil {
		return takeover{}, fmt.Errorf("end the leader: %w", err)
	}
	p := newPod("after-"+strconv.Itoa(f.n), 0, nodeName(f.n%4))
	if err := f.create(ctx, p); err != nil {
		return takeover{}, err
	}
	at, err := f.seen.pod(ctx, key(p))
	if err != nil {
		return takeover{}, err
	}
	<-f.leader.Ended()
	f.leader = next
	t := takeover{assigned: at.Sub(began), lease: time.Duration(*old.Spec.LeaseDurationSeconds) * time.Second}
	select {
	case led := <-taken:
		t.leading = led.Sub(began)
		return t, next.leads(ctx)
	case <-ctx.Done():
		return t, fmt.Errorf("wait until the other MIC leads: %w", context.Cause(ctx))
	}
}

// lease returns the Lease of the leader.
func (c *cluster) lease(ctx context.Context) (*coordinationv1.Lease, error) {
	lease, err := c.Kube.CoordinationV1().Leases("default").Get(ctx, leaseName, metav1.GetOptions{})
	if err == nil && (lease.Spec.HolderIdentity == nil || lease.Spec.LeaseDurationSeconds == nil) {
		err = errors.New("nobody holds it")
	}
	if err != nil {
		return nil, fmt.Errorf("read the lease: %w", err)
	}
	return lease, nil
}

// watchLease sends the time when another MIC holds the Lease.
func watchLease(ctx context.Context, kube *rest.Config, holder string) (<-chan time.Time, error) {
	body, err := watchRaw(ctx, kube, "/apis/coordination.k8s.io/v1/namespaces/default/leases", fromNow)
	if err != nil {
		return nil, fmt.Errorf("watch the lease: %w", err)
	}
	taken := make(chan time.Time, 1)
	go func() {
		defer func() { _ = body.Close() }()
		events := json.NewDecoder(body)
		for {
			var e struct {
				Object coordinationv1.Lease `json:"object"`
			}
			if events.Decode(&e) != nil {
				return // the context ended, which the receiver notices itself
			}
			if h := e.Object.Spec.HolderIdentity; e.Object.Name == leaseName && h != nil && *h != "" && *h != holder {
				taken <- time.Now()
				return
			}
		}
	}()
	return taken, nil
}
