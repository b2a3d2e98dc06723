// Telling assigned identities how far they have come.

package attachment

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
)

// settleNow settles with what the cache has by now: an update takes a while.
func (r *Reconciler) settleNow(ctx context.Context, group compute.Group, st *state) error {
	members, err := r.members(ctx, group)
	if err != nil {
		return err
	}
	return r.settle(ctx, st, members)
}

// settle writes the state of every assigned identity that says otherwise,
// several at a time. An object that changed meanwhile is looked at again soon: its
// watch need not bring it back.
func (r *Reconciler) settle(ctx context.Context, st *state, members members) error {
	var writes errgroup.Group
	writes.SetLimit(max(r.settings.Writes, 1))
	now := r.now()
	for _, assigned := range members.assigned {
		state, since, write := st.verdict(assigned, now)
		if !write {
			continue
		}
		writes.Go(func() error { return r.write1(ctx, st, assigned, state, now.Sub(since)) })
	}
	r.lifted(st.prune(members))
	return writes.Wait()
}

// verdict is what the group's memory says about an assigned identity, since when
// that was not so, and whether it has to be written.
func (st *state) verdict(assigned *v1.AzureAssignedIdentity, now time.Time) (state assignment.State, since time.Time, write bool) {
	need, _, ok := needOf(assigned)
	if !ok {
		return state, now, false
	}
	name := types.NamespacedName{Namespace: assigned.Namespace, Name: assigned.Name}
	st.mu.Lock()
	defer st.mu.Unlock()
	state = st.judge(need.key, assigned)
	have := assignment.State{Status: assigned.Status.Status, Reason: assigned.Status.Reason, Message: assigned.Status.Message}
	if state.Status == v1.StateAssigned {
		if since, ok = st.waiting[name]; !ok {
			since = now
		}
		delete(st.waiting, name)
	} else if _, ok := st.waiting[name]; !ok {
		st.waiting[name] = now
	}
	return state, since, state != have
}

// judge is the state that an object should have. mu is held.
func (st *state) judge(key string, assigned *v1.AzureAssignedIdentity) assignment.State {
	if st.usable(key) {
		return assignment.State{Status: v1.StateAssigned}
	}
	if q, ok := st.quarantined[key]; ok {
		return q.state
	}
	if assigned.Status.Status == v1.StateAssigned {
		// It was there: whoever took it away, the update that brings it back
		// is on its way. Saying Created and Assigned again would be two writes
		// for every pod of a scale set.
		return assignment.State{Status: v1.StateAssigned, Reason: assigned.Status.Reason, Message: assigned.Status.Message}
	}
	if st.trouble.Reason != "" {
		return st.trouble
	}
	return assignment.State{Status: v1.StateCreated}
}

// prune drops what is remembered of objects that are gone, and returns the
// quarantines that ended because nobody needs the identity any more.
func (st *state) prune(members members) (lifted []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.quarantined) > 0 {
		lifted = st.release(members)
	}
	if len(st.waiting) == 0 {
		return lifted
	}
	there := make(map[types.NamespacedName]bool, len(members.assigned))
	for _, a := range members.assigned {
		there[types.NamespacedName{Namespace: a.Namespace, Name: a.Name}] = true
	}
	for name := range st.waiting {
		if !there[name] {
			delete(st.waiting, name)
		}
	}
	return lifted
}

// release ends the quarantine of identities that no pod needs and that are not
// ours to take away either. mu is held.
func (st *state) release(members members) (lifted []types.NamespacedName) {
	needed := map[string]bool{}
	for need := range members.needs {
		needed[need.key] = true
	}
	for key, q := range st.quarantined {
		if _, ours := st.ledger[key]; !ours && !needed[key] {
			delete(st.quarantined, key)
			lifted = append(lifted, q.identities...)
		}
	}
	return lifted
}

// write1 writes the state of one assigned identity and announces it.
func (r *Reconciler) write1(ctx context.Context, st *state, cached *v1.AzureAssignedIdentity, state assignment.State, took time.Duration) error {
	assigned := cached.DeepCopy()
	assigned.Status.Status, assigned.Status.Reason, assigned.Status.Message = state.Status, state.Reason, state.Message
	err := r.client.Patch(ctx, assigned, client.MergeFromWithOptions(cached, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) {
		st.missed()
		return nil
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of assigned identity %s/%s: %w", cached.Namespace, cached.Name, err)
	}
	switch {
	case state.Status == v1.StateAssigned && cached.Status.Status != v1.StateAssigned:
		r.metrics.AssignedIdentityAdded(took)
		r.events.Assigned(assigned, r.pod(ctx, assigned))
	case state.Reason != "":
		r.events.NotAssigned(assigned, r.pod(ctx, assigned), state.Message)
	}
	return nil
}

// pod returns the pod that an assigned identity is for, nil when it is gone.
func (r *Reconciler) pod(ctx context.Context, assigned *v1.AzureAssignedIdentity) *corev1.Pod {
	var pod corev1.Pod
	key := client.ObjectKey{Namespace: assigned.Spec.PodNamespace, Name: assigned.Spec.Pod}
	if err := r.client.Get(ctx, key, &pod); err != nil {
		return nil
	}
	return &pod
}
