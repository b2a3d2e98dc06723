package compute

// Fake is ARM's compute resources in memory, for tests of what uses Client.

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fake behaves as Client does against Azure: PATCH merges, one operation runs at a time per group, an identity that
// does not exist is refused by name, and errors are of the same kinds. The same test runs against both. It is safe
// for concurrent use; its waits end with the context and work under testing/synctest.
type Fake struct {
	mu       sync.Mutex
	groups   map[Group]*fakeGroup
	known    map[string]fakeIdentity // user-assigned identities that exist, by lower-case ID
	made     map[string]int          // how often each was made
	stale    bool                    // see KeepStaleIDs
	pauses   map[string]time.Time    // until when a subscription is to be left alone
	duration time.Duration
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
	busy     bool
	pause    time.Time // until when the group is to be left alone
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
	return ok && target.busy
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
	change, duration, err := f.begin(ctx, group, attach, detach)
	if err != nil || change.empty() {
		return err
	}
	if err := pause(ctx, duration); err != nil {
		// As in Azure, the operation goes on although nobody waits for it any more.
		f.abandon(group, change, duration)
		return refuse("patch identities of", group, nil, err)
	}
	f.end(group, change)
	return nil
}

// begin accepts the operation, or refuses it as ARM does.
func (f *Fake) begin(ctx context.Context, group Group, attach, detach []string) (change, time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.read(ctx, group)
	if err != nil {
		return change{}, 0, err
	}
	planned := plan(have, attach, detach)
	if planned.empty() {
		return planned, 0, nil
	}
	if left := time.Until(f.groups[group].pause); left > 0 {
		return change{}, 0, fakeRefusal(group, http.StatusTooManyRequests, "", "not sent: see Pause", nil, left)
	}
	if len(f.throttle) > 0 {
		wait := f.throttle[0]
		f.throttle = f.throttle[1:]
		f.groups[group].pause = time.Now().Add(wait)
		return change{}, 0, fakeRefusal(group, http.StatusTooManyRequests, "TooManyRequests",
			"The request is being throttled.", nil, wait)
	}
	if len(f.failures) > 0 {
		err := f.failures[0]
		f.failures = f.failures[1:]
		return change{}, 0, err
	}
	if f.groups[group].busy {
		return change{}, 0, fakeRefusal(group, http.StatusConflict, "Conflict",
			"Another operation on this resource is in progress.", nil, 0)
	}
	if unknown := slices.IndexFunc(planned.attach, func(id string) bool { return !f.exists(id) }); unknown >= 0 {
		return change{}, 0, fakeRefusal(group, http.StatusBadRequest, "FailedIdentityOperation",
			"Identity operation failed: resource '"+planned.attach[unknown]+"' was not found.", planned.attach, 0)
	}
	f.groups[group].busy = true
	return planned, f.duration, nil
}

// abandon lets an operation end without a caller, after as long as it would have taken at most.
func (f *Fake) abandon(group Group, change change, duration time.Duration) {
	time.AfterFunc(duration, func() { f.end(group, change) })
}

// end merges the change into what the group has.
func (f *Fake) end(group Group, change change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target, ok := f.groups[group]
	if !ok || !target.busy {
		return
	}
	target.busy = false
	for _, id := range change.attach {
		target.attach(id, f.known[strings.ToLower(id)])
	}
	for _, id := range change.detach {
		target.detach(id)
	}
}

// read is a GET. The caller holds the lock.
func (f *Fake) read(ctx context.Context, group Group) (Identities, error) {
	if err := ctx.Err(); err != nil {
		return Identities{}, refuse("read identities of", group, nil, err)
	}
	target, ok := f.groups[group]
	if !ok {
		return Identities{}, &refusal{
			act: "read identities of", group: group, status: http.StatusNotFound, code: "ResourceNotFound",
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
	r := &refusal{act: "patch identities of", group: group, status: status, code: code, message: message, retryAfter: retryAfter}
	r.bad = r.named(requested)
	return r
}
