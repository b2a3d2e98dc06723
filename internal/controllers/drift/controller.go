// Package drift compares Azure with the cluster: at intervals, it makes the attachment controller
// read every node group from Azure. An identity that was removed comes back, one that was deleted
// and recreated is attached again, and one that podid left behind is detached.
//
// The comparisons are spread over the interval. Reading a thousand VMs at once would use up what
// Azure allows for minutes, and pods would wait.
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
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/podid-io/podid/internal/compute"
)

// jitterDivisor is the part of the interval by which a comparison is late at most, so that clusters
// that share a subscription do not synchronize.
const jitterDivisor = 10

// Attachment is the controller that repairs drift; attachment.Controller is one.
type Attachment interface {
	// Compare makes it read a group from Azure and reconcile it. For a group that is queued already
	// it has no effect.
	Compare(group compute.Group)
	// Ledgered returns the groups to which podid attached something, including those without nodes.
	Ledgered(ctx context.Context) ([]compute.Group, error)
}

// Controller compares Azure with the cluster, at intervals.
type Controller struct {
	cache      client.Reader
	attachment Attachment
	interval   time.Duration
}

// NewController returns a Controller. interval is the time between two comparisons of one group.
func NewController(cache client.Reader, attachment Attachment, interval time.Duration) *Controller {
	return &Controller{cache: cache, attachment: attachment, interval: interval}
}

// Start compares all groups once per interval until the context ends, beginning at once.
func (c *Controller) Start(ctx context.Context) error {
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
	for began := time.Now(); ; {
		groups := c.groups(ctx)
		interval := paced(groups, c.interval)
		for _, turn := range turns(groups, interval, rand.Float64) {
			if !wait(began.Add(turn.after)) {
				return nil
			}
			c.attachment.Compare(turn.group)
		}
		if !wait(began.Add(interval)) {
			return nil
		}
		began = next(began, time.Now(), interval)
	}
}

// Register adds the controller to a manager, where it runs only on the leader.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	return mgr.Add(manager.RunnableFunc(c.Start))
}

// readEvery is the time between two comparisons in one subscription, at least: Azure grants it 25
// reads a second, and comparing may use a twentieth of them, some of which are second attempts and
// reads after updates. Pods wait for the others.
const readEvery = time.Second

// paced returns the time for a round over the groups: the interval, or more where a subscription
// has too many of them for it. A round over 1,000 VMs takes 17 minutes.
func paced(groups []compute.Group, interval time.Duration) time.Duration {
	count := map[string]int{}
	for _, group := range groups {
		count[group.SubscriptionID]++
		interval = max(interval, time.Duration(count[group.SubscriptionID])*readEvery)
	}
	return interval
}

// next returns when the next round begins: one interval after the last one began, or now if that is
// more than an interval ago. Missed rounds are skipped.
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

// turns spreads the groups evenly over the interval. The order is the same in every round, so that
// one interval passes between two comparisons of a group. It mixes resource groups and
// subscriptions, because Azure limits requests for each of them. random returns a number in [0, 1)
// for the jitter.
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
		late := time.Duration(random() * float64(min(slot, interval/jitterDivisor)))
		// Not i*slot, whose rounding would add up.
		list = append(list, turn{o.group, time.Duration(float64(i)/float64(len(order))*float64(interval)) + late})
	}
	return list
}

func rank(group compute.Group) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(group.ResourceID())) // never fails
	return h.Sum64()
}

// groups returns the groups of all nodes and those to which podid attached something, each once.
func (c *Controller) groups(ctx context.Context) []compute.Group {
	log := logr.FromContextOrDiscard(ctx).WithName("drift")
	seen := map[compute.Group]bool{}
	var nodes corev1.NodeList
	if err := c.cache.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		log.Error(err, "nodes not listed, skipping this comparison with Azure")
		return nil
	}
	for i := range nodes.Items {
		if group, err := compute.ParseProviderID(nodes.Items[i].Spec.ProviderID); err == nil {
			seen[group] = true
		}
	}
	ledgered, err := c.attachment.Ledgered(ctx)
	if err != nil && ctx.Err() == nil {
		log.Error(err, "ledgers not listed, skipping node groups without nodes in this comparison")
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
