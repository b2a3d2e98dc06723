// Package computetest has a fake of compute.Client, and the test that the fake and the client both
// pass.
package computetest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/compute"
)

// Fake behaves as compute.Client does against Azure. A PATCH merges. Each group runs one operation
// at a time and shows its goal meanwhile. An identity that does not exist is refused by name, and
// errors are of the same kinds. Fake is safe for concurrent use. Its waits end with the context and
// work under testing/synctest.
type Fake struct {
	mu       sync.Mutex
	groups   map[compute.Group]*group
	known    map[string]identity  // user-assigned identities that exist, by loose ID
	created  map[string]int       // how often each was created
	stale    bool                 // see KeepStaleIDs
	pauses   map[string]time.Time // end of each subscription's pause
	duration time.Duration
	strict   bool // see RefuseDeleted
	preempt  int  // see PreemptNext
	failures []error
	throttle []time.Duration
	calls    []Call
}

// group is one node group.
type group struct {
	user     []string            // in the caller's spelling
	bound    map[string]identity // each identity as it was when attached, by loose ID
	system   bool
	updating bool
	running  *operation
	pause    time.Time // end of the group's pause
}

// operation is an update in progress.
type operation struct {
	attach    []string
	detach    []string
	duration  time.Duration
	preempted bool
}

// Call is one call that a Fake has answered.
type Call struct {
	Operation string // compute.GetVM, PatchVM, GetVMSS or PatchVMSS
	Group     compute.Group
	Attach    []string
	Detach    []string
	Err       error
}

// NewFake returns a Fake without groups or identities.
func NewFake() *Fake {
	return &Fake{
		groups: map[compute.Group]*group{}, known: map[string]identity{},
		created: map[string]int{}, pauses: map[string]time.Time{},
	}
}

// DeleteGroup removes the group. Calls about it then fail as IsNotFound.
func (f *Fake) DeleteGroup(of compute.Group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.groups, of)
}

// SetDuration sets how long later updates take. The default is zero.
func (f *Fake) SetDuration(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.duration = d
}

// FailNext makes the next PATCH fail with err before it changes anything. Several calls queue up.
func (f *Fake) FailNext(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, err)
}

// ThrottleNext makes the next PATCH fail with 429 and that Retry-After. Several calls queue up.
func (f *Fake) ThrottleNext(retryAfter time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.throttle = append(f.throttle, retryAfter)
}

// Busy reports whether an update of the group is in progress.
func (f *Fake) Busy(of compute.Group) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	target, ok := f.groups[of]
	return ok && target.running != nil
}

// PreemptNext makes the next PATCH that is accepted fail at its end, preempted by a later one
// (IsConflict). Several calls queue up.
func (f *Fake) PreemptNext() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.preempt++
}

// Calls returns the calls in the order in which they ended.
func (f *Fake) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Get implements Client.
func (f *Fake) Get(ctx context.Context, of compute.Group) (compute.Identities, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.read(ctx, of)
	f.record(Call{Operation: operationOf(of, compute.GetVM, compute.GetVMSS), Group: of, Err: err})
	return have, err
}

// Patch implements Client.
func (f *Fake) Patch(ctx context.Context, of compute.Group, attach, detach []string) error {
	err := f.patch(ctx, of, attach, detach)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record(Call{
		Operation: operationOf(of, compute.PatchVM, compute.PatchVMSS), Group: of,
		Attach: slices.Clone(attach), Detach: slices.Clone(detach), Err: err,
	})
	return err
}

func operationOf(of compute.Group, vm, vmss string) string {
	if of.Kind == compute.VMSS {
		return vmss
	}
	return vm
}

// patch reads, accepts, waits and merges.
func (f *Fake) patch(ctx context.Context, of compute.Group, attach, detach []string) error {
	if n := len(attach) + len(detach); n > compute.MaxPerPatch {
		return fmt.Errorf("patch identities of %s: %d identities in one request", of, n)
	}
	running, err := f.begin(ctx, of, attach, detach)
	if err != nil || running == nil {
		return err
	}
	done := time.NewTimer(running.duration)
	select {
	case <-done.C:
	case <-ctx.Done():
		// As in Azure, the operation continues even if no caller waits for it.
		time.AfterFunc(running.duration, func() { f.end(of, running) })
		return compute.PatchError(of, nil, ctx.Err())
	}
	f.end(of, running)
	if running.preempted {
		return Refusal(of, http.StatusOK, "OperationPreempted", "Operation execution has been preempted by a more recent operation.", nil, 0)
	}
	return nil
}

// begin accepts the operation, or refuses it as ARM does. It returns nil if there is no identity to
// name.
func (f *Fake) begin(ctx context.Context, of compute.Group, attach, detach []string) (*operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.read(ctx, of); err != nil {
		return nil, err
	}
	target := f.groups[of]
	planned := target.plan(attach, detach)
	if len(attach)+len(planned.detach) == 0 {
		return nil, nil
	}
	if err := f.disturb(of, target); err != nil {
		return nil, err
	}
	if target.running != nil {
		return nil, Refusal(of, http.StatusConflict, "Conflict", "Another operation on this resource is in progress.", nil, 0)
	}
	if id, ok := f.missing(target, planned); ok {
		return nil, Refusal(of, http.StatusBadRequest, "FailedIdentityOperation",
			"Identity operation failed: resource '"+id+"' was not found.", planned.attach, 0)
	}
	planned.duration, planned.preempted = f.duration, f.preempt > 0
	f.preempt = max(f.preempt-1, 0)
	target.running = planned
	return planned, nil
}

// plan returns the change of the group. An identity in both lists is attached.
func (g *group) plan(attach, detach []string) *operation {
	planned := &operation{}
	for _, id := range attach {
		if !has(g.user, id) && !has(planned.attach, id) {
			planned.attach = append(planned.attach, id)
		}
	}
	for _, id := range detach {
		if has(g.user, id) && !has(attach, id) {
			planned.detach = append(planned.detach, id)
		}
	}
	return planned
}

// disturb fails a PATCH if the test requested it. The caller holds the lock.
func (f *Fake) disturb(of compute.Group, target *group) error {
	if left := time.Until(target.pause); left > 0 {
		return Refusal(of, http.StatusTooManyRequests, "", "not sent: see Pause", nil, left)
	}
	if len(f.throttle) > 0 {
		wait := f.throttle[0]
		f.throttle = f.throttle[1:]
		target.pause = time.Now().Add(wait)
		return Refusal(of, http.StatusTooManyRequests, "TooManyRequests", "The request is being throttled.", nil, wait)
	}
	if len(f.failures) > 0 {
		err := f.failures[0]
		f.failures = f.failures[1:]
		return err
	}
	return nil
}

// end merges the change into the group.
func (f *Fake) end(of compute.Group, ended *operation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target, ok := f.groups[of]
	if !ok || target.running != ended {
		return
	}
	target.running = nil
	if !ended.preempted {
		f.apply(target, ended)
	}
}

// read is a GET. The caller holds the lock.
func (f *Fake) read(ctx context.Context, of compute.Group) (compute.Identities, error) {
	if err := ctx.Err(); err != nil {
		return compute.Identities{}, compute.GetError(of, err)
	}
	target, ok := f.groups[of]
	if !ok {
		return compute.Identities{}, compute.GetError(of,
			answer(http.StatusNotFound, "ResourceNotFound", "The Resource '"+of.ResourceID()+"' was not found.", 0))
	}
	return f.show(target), nil
}

// callLimit bounds the list of calls: a Fake may serve a benchmark.
const callLimit = 100_000

// record appends a call. The caller holds the lock.
func (f *Fake) record(call Call) {
	if len(f.calls) < callLimit {
		f.calls = append(f.calls, call)
	}
}

// has reports whether Azure may treat one of ids and id as the same identity.
func has(ids []string, id string) bool {
	return slices.ContainsFunc(ids, func(other string) bool { return ascii.Loose(other) == ascii.Loose(id) })
}
