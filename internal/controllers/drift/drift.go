// Package drift compares Azure with the cluster: from time to time it makes the
// attachment controller ask Azure about every node group, so that an identity
// that somebody took away comes back, and one that podid left behind goes.
package drift

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/compute"
)

// Attachment is the controller that can repair; attachment.Reconciler is one.
type Attachment interface {
	// Kick makes it look at a group, asking Azure first.
	Kick(group compute.Group)
	// Ledgered returns the groups on which podid has attached something, also
	// those without nodes.
	Ledgered(ctx context.Context) ([]compute.Group, error)
}

// Drift is a runnable of the manager, for the leader alone.
type Drift struct {
	Reader     client.Reader
	Attachment Attachment
	// Interval is the time between two comparisons.
	Interval time.Duration
}

// NeedLeaderElection says that only the leader compares.
func (d *Drift) NeedLeaderElection() bool { return true }

// Start compares at once, and then at every interval until the context ends.
func (d *Drift) Start(ctx context.Context) error {
	ticker := time.NewTicker(d.Interval)
	defer ticker.Stop()
	for {
		d.compare(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// compare kicks every group, each once.
func (d *Drift) compare(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx).WithName("drift")
	groups := map[compute.Group]bool{}
	var nodes corev1.NodeList
	if err := d.Reader.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		log.Error(err, "nodes not listed, no comparison with Azure this time")
		return
	}
	for i := range nodes.Items {
		if group, err := compute.ParseProviderID(nodes.Items[i].Spec.ProviderID); err == nil {
			groups[group] = true
		}
	}
	ledgered, err := d.Attachment.Ledgered(ctx)
	if err != nil && ctx.Err() == nil {
		log.Error(err, "ledgers not listed, node groups without nodes are not compared this time")
	}
	for _, group := range ledgered {
		groups[group] = true
	}
	for group := range groups {
		d.Attachment.Kick(group)
	}
	log.V(1).Info("comparing Azure with the cluster", "nodeGroups", len(groups))
}
