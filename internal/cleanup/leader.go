// Whether a MIC is at work.

package cleanup

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// LeaderError says that a MIC looks after what was to be cleaned up.
type LeaderError struct{ Holder, Namespace, Name string }

// Error tells what to do.
func (e *LeaderError) Error() string {
	return fmt.Sprintf("mic %s leads (Lease %s/%s) and would undo the work: uninstall it or scale it to 0 first, or use --force",
		e.Holder, e.Namespace, e.Name)
}

// CheckLeader returns a *LeaderError while a MIC holds its Lease, in any namespace.
// A Lease that was not renewed in its time is nobody's.
func CheckLeader(ctx context.Context, c client.Reader, names Names, now time.Time) error {
	var held error
	err := each(ctx, c, &coordinationv1.LeaseList{}, func(lease *coordinationv1.Lease) {
		if holds(lease, now) {
			held = &LeaderError{*lease.Spec.HolderIdentity, lease.Namespace, lease.Name}
		}
	}, named(names.Lease))
	if err != nil {
		return fmt.Errorf("find out whether a mic leads: %w", err)
	}
	return held
}

func holds(lease *coordinationv1.Lease, now time.Time) bool {
	spec := lease.Spec
	if spec.HolderIdentity == nil || *spec.HolderIdentity == "" || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return false
	}
	return now.Before(spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds) * time.Second))
}
