package compute

// Fake is ARM's compute resources in memory, for tests of what uses Client.

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Fake behaves as Client does against Azure: PATCH merges, one operation runs at a time per group (which shows, Updating,
// what it will have), an identity that does not exist is refused by name, and errors are of the same kinds. The same test runs against both. It is safe
// for concurrent use; its waits end with the context and work under testing/synctest.
type Fake struct {
	mu       sync.Mutex
	groups   map[Group]*fakeGroup
	known    map[string]fakeIdentity // user-assigned identities that exist, by lower-case ID
	made     map[string]int          // how often each was made
	stale    bool                    // see KeepStaleIDs
	pauses   map[string]time.Time    // until when a subscription is to be left alone
	duration time.Duration
	strict   bool // see RefuseDeleted
	preempt  int  // see PreemptNext
	failures []error
	throttle []time.Duration
	calls    []Call
}

// fakeGroup is one node group.
type fakeGroup struct {
	user     []string                // as they were spelled
	bound    map[string]fakeIdentity // what each was when it was attached, by lower-case ID
	system   bool
	updating bool
	running  *fakeOperation
	pause    time.Time // until when the group is to be left alone
}

// fakeOperation is an update under way.
type fakeOperation struct {
	change    change
	duration  time.Duration
	preempted bool
}

// Call is one call that a Fake has answered.
type Call struct {
	Operation string // GetVM, PatchVM, GetVMSS or PatchVMSS
	Group     Group
	Attach    []string
	Detach    []string
	Err       error
}

// NewFake makes a Fake without groups or identities.
func NewFake() *Fake {
	return &Fake{
		groups: map[Group]*fakeGroup{}, known: map[string]fakeIdentity{}, made: map[string]int{}, pauses: map[string]time.Time{},
	}
}

// DeleteGroup removes the group: calls about it are then refused as IsNotFound.
func (f *Fake) DeleteGroup(group Group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.groups, group)
}

// SetDuration is how long an update takes from now on; zero at first.
func (f *Fake) SetDuration(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.duration = d
}

// FailNext makes the next PATCH fail with err before it changes anything. Several queue up.
func (f *Fake) FailNext(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, err)
}

// ThrottleNext makes the next PATCH be refused with 429 and that Retry-After. Several queue up.
func (f *Fake) ThrottleNext(retryAfter time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.throttle = append(f.throttle, retryAfter)
}

// Busy tells whether an update of the group is under way.
func (f *Fake) Busy(group Group) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	target, ok := f.groups[group]
	return ok && target.running != nil
}

// PreemptNext makes the next PATCH that is accepted come to nothing at its end, because of a later one (IsConflict).
// Several queue up.
func (f *Fake) PreemptNext() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.preempt++
}

// Calls returns what was called, in the order in which the calls ended.
func (f *Fake) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Get is Client.Get.
func (f *Fake) Get(ctx context.Context, group Group) (Identities, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.read(ctx, group)
	f.log(Call{Operation: operationOf(group, GetVM, GetVMSS), Group: group, Err: err})
	return have, err
}

// Patch is Client.Patch.
func (f *Fake) Patch(ctx context.Context, group Group, attach, detach []string) error {
	err := f.patch(ctx, group, attach, detach)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log(Call{
		Operation: operationOf(group, PatchVM, PatchVMSS), Group: group,
		Attach: slices.Clone(attach), Detach: slices.Clone(detach), Err: err,
	})
	return err
}

// patch reads, accepts, waits and merges.
func (f *Fake) patch(ctx context.Context, group Group, attach, detach []string) error {
	if err := checkSize(group, attach, detach); err != nil {
		return err
	}
	operation, err := f.begin(ctx, group, attach, detach)
	if err != nil || operation == nil {
		return err
	}
	if err := pause(ctx, operation.duration); err != nil {
		// As in Azure, the operation goes on although nobody waits for it any more: for as long as it would have taken
		// at most.
		time.AfterFunc(operation.duration, func() { f.end(group, operation) })
		return refuse(writes, group, nil, err)
	}
	f.end(group, operation)
	if operation.preempted {
		return fakeRefusal(group, http.StatusOK, "OperationPreempted",
			"Operation execution has been preempted by a more recent operation.", nil, 0)
	}
	return nil
}

// begin accepts the operation, or refuses it as ARM does. It is nil when there is nothing to do.
func (f *Fake) begin(ctx context.Context, group Group, attach, detach []string) (*fakeOperation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.read(ctx, group)
	if err != nil {
		return nil, err
	}
	planned, target := plan(have, attach, detach), f.groups[group]
	if planned.empty() {
		return nil, nil
	}
	if err := f.disturb(group, target); err != nil {
		return nil, err
	}
	if target.running != nil {
		return nil, fakeRefusal(group, http.StatusConflict, "Conflict",
			"Another operation on this resource is in progress.", nil, 0)
	}
	if id, ok := f.unknown(target, planned); ok {
		return nil, fakeRefusal(group, http.StatusBadRequest, "FailedIdentityOperation",
			"Identity operation failed: resource '"+id+"' was not found.", planned.attach, 0)
	}
	target.running = &fakeOperation{change: planned, duration: f.duration, preempted: f.preempt > 0}
	f.preempt = max(f.preempt-1, 0)
	return target.running, nil
}

// disturb fails a PATCH as the test asked for. The caller holds the lock.
func (f *Fake) disturb(group Group, target *fakeGroup) error {
	if left := time.Until(target.pause); left > 0 {
		return fakeRefusal(group, http.StatusTooManyRequests, "", "not sent: see Pause", nil, left)
	}
	if len(f.throttle) > 0 {
		wait := f.throttle[0]
		f.throttle = f.throttle[1:]
		target.pause = time.Now().Add(wait)
		return fakeRefusal(group, http.StatusTooManyRequests, "TooManyRequests", "The request is being throttled.", nil, wait)
	}
	if len(f.failures) > 0 {
		err := f.failures[0]
		f.failures = f.failures[1:]
		return err
	}
	return nil
}

// end merges the change into what the group has.
func (f *Fake) end(group Group, operation *fakeOperation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target, ok := f.groups[group]
	if !ok || target.running != operation {
		return
	}
	target.running = nil
	if !operation.preempted {
		f.apply(target, operation.change)
	}
}

// read is a GET. The caller holds the lock.
func (f *Fake) read(ctx context.Context, group Group) (Identities, error) {
	if err := ctx.Err(); err != nil {
		return Identities{}, refuse(reads, group, nil, err)
	}
	target, ok := f.groups[group]
	if !ok {
		return Identities{}, &refusal{
			act: reads, group: group, status: http.StatusNotFound, code: "ResourceNotFound",
			message: "The Resource '" + group.ResourceID() + "' was not found.",
		}
	}
	return f.show(target), nil
}

// callLimit bounds the log: a Fake may serve a benchmark.
const callLimit = 100_000

// log notes a call. The caller holds the lock.
func (f *Fake) log(call Call) {
	if len(f.calls) < callLimit {
		f.calls = append(f.calls, call)
	}
}

// fakeRefusal is ARM's no.
func fakeRefusal(group Group, status int, code, message string, requested []string, retryAfter time.Duration) error {
	r := &refusal{act: writes, group: group, status: status, code: code, message: message, retryAfter: retryAfter}
	r.bad = r.named(requested)
	return r
}
