// Package drift compares Azure with the cluster: from time to time it makes the
// attachment controller ask Azure about every node group, so that an identity
// that somebody took away comes back, one that was made again under its name is
// attached again, and one that podid left behind goes.
//
// The groups take turns over the interval: a thousand VMs asked about at the same
// moment would use up what Azure allows for minutes, and with it what pods wait
// for.
package drift

import (
	"cmp"
	"context"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/compute"
)

// jitter is the part of the interval by which a turn is late at most: clusters
// that share a subscription must not fall into step.
const jitter = 10 // a tenth

// Attachment is the controller that can repair; attachment.Reconciler is one.
type Attachment interface {
	// Kick makes it look at a group, asking Azure first. Kicking one that is
	// waiting already changes nothing.
	Kick(group compute.Group)
	// Ledgered returns the groups on which podid has attached something, also
	// those without nodes.
	Ledgered(ctx context.Context) ([]compute.Group, error)
}

// Drift is a runnable of the manager, for the leader alone.
type Drift struct {
	Reader     client.Reader
	Attachment Attachment
	// Interval is the time between two comparisons of one group.
	Interval time.Duration
}

// NeedLeaderElection says that only the leader compares.
func (d *Drift) NeedLeaderElection() bool { return true }

// Start compares, round after round, until the context ends. The first round
// begins at once.
func (d *Drift) Start(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	wait := func(until time.Time) bool {
		timer.Reset(time.Until(until))
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		}
	}
	for began := time.Now(); ; began = next(began, time.Now(), d.Interval) {
		for _, turn := range turns(d.groups(ctx), d.Interval, rand.Float64) {
			if !wait(began.Add(turn.after)) {
				return nil
			}
			d.Attachment.Kick(turn.group)
		}
		if !wait(began.Add(d.Interval)) {
			return nil
		}
	}
}

// next is when the round after that of began begins: an interval later, or now
// where it is long past that. Rounds that were missed are not made up for.
func next(began, now time.Time, interval time.Duration) time.Time {
	if planned := began.Add(interval); now.Sub(planned) < interval {
		return planned
	}
	return now
}

// turn is when in a round a group is compared.
type turn struct {
	group compute.Group
	after time.Duration
}

// turns spreads the groups evenly over the interval, in an order that is the same
// in every round, so that the time between two turns of a group is the interval,
// and that mixes resource groups and subscriptions, each of which has limits of
// its own at Azure. Within its slot a group is late at random, by a tenth of
// the interval at most. random returns a number in [0, 1).
func turns(groups []compute.Group, interval time.Duration, random func() float64) []turn {
	type ranked struct {
		group compute.Group
		rank  uint64
	}
	order := make([]ranked, 0, len(groups))
	for _, group := range groups {
		order = append(order, ranked{group, rank(group)})
	}
	slices.SortFunc(order, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.group.ResourceID(), b.group.ResourceID()))
	})
	list := make([]turn, 0, len(order))
	for i, o := range order {
		slot := interval / time.Duration(len(order))
		late := time.Duration(random() * float64(min(slot, interval/jitter)))
		// Not i*slot, whose rounding would add up.
		list = append(list, turn{o.group, time.Duration(float64(i)/float64(len(order))*float64(interval)) + late})
	}
	return list
}

func rank(group compute.Group) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(group.ResourceID())) // a hash takes everything
	return h.Sum64()
}

// groups are the groups of the nodes, and those on which podid has attached
// something, each once.
func (d *Drift) groups(ctx context.Context) []compute.Group {
	log := logr.FromContextOrDiscard(ctx).WithName("drift")
	seen := map[compute.Group]bool{}
	var nodes corev1.NodeList
	if err := d.Reader.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		log.Error(err, "nodes not listed, no comparison with Azure this time")
		return nil
	}
	for i := range nodes.Items {
		if group, err := compute.ParseProviderID(nodes.Items[i].Spec.ProviderID); err == nil {
			seen[group] = true
		}
	}
	ledgered, err := d.Attachment.Ledgered(ctx)
	if err != nil && ctx.Err() == nil {
		log.Error(err, "ledgers not listed, node groups without nodes are not compared this time")
	}
	for _, group := range ledgered {
		seen[group] = true
	}
	groups := make([]compute.Group, 0, len(seen))
	for group := range seen {
		groups = append(groups, group)
	}
	log.V(1).Info("comparing Azure with the cluster", "nodeGroups", len(groups))
	return groups
}
