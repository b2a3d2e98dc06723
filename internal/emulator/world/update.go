// Writes to the identities of a machine, and their operations.

package world

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Errors of a write. ARM has a different response for each.
var (
	ErrNotFound = errors.New("no such VM or scale set")
	ErrBusy     = errors.New("another write to the resource is under way")
	// ErrChanged: the machine is not in the state that the writer expects (If-Match).
	ErrChanged = errors.New("the resource has changed")
	// ErrEmpty: the type says user-assigned, but no identity would be left.
	ErrEmpty = errors.New("no user-assigned identity given")
	// ErrSurplus: identities are named although the type has no user-assigned ones.
	ErrSurplus = errors.New("user-assigned identities given for a type without them")
	ErrTooMany = errors.New("too many identities in one request")
	// ErrUnassignable: one of the identities to be added is Identity.Unassignable; Azure does not
	// say which.
	ErrUnassignable = errors.New("an identity cannot be assigned")
)

// UnknownIdentityError rejects the addition of an identity that does not exist.
type UnknownIdentityError struct{ ResourceID string }

func (e *UnknownIdentityError) Error() string { return "identity does not exist: " + e.ResourceID }

// Change is a write to a machine's identities.
type Change struct {
	// System and User are the identity type: "SystemAssigned", "UserAssigned", both, or neither
	// ("None").
	System, User bool
	// Identities maps resource IDs to true (add) or false (remove).
	Identities map[string]bool
	// Replace removes every identity that Identities does not name (PUT); otherwise they stay (PATCH).
	Replace bool
	// ETag, if not empty, is the required state of the machine; * is any.
	ETag string
	// Fail accepts the write and makes its operation fail with this error code.
	Fail string
}

// liveMachine is the state of a machine that changes over time.
type liveMachine struct {
	operation string // ID of the current write, or empty
	version   int    // the ETag
	current   assigned
	goal      assigned
	published assigned // what IMDS knows
	pending   []publication
}

// publication is a state that IMDS reflects from a given time on.
type publication struct {
	at    time.Time
	state assigned
}

// Operation is a write that is in progress or over.
type Operation struct {
	ID      string
	Machine MachineID
	Started time.Time
	Ends    time.Time // when it ends or ended
	Done    bool
	// Failed is the error code of an operation that fails or failed. The machine does not change then.
	Failed string
	// Added and Removed are the user-assigned identities that it changes.
	Added, Removed []string
}

// operations keeps the last maxOperations writes.
type operations struct {
	byID  map[string]*Operation
	order []string
}

// maxOperations bounds the memory for finished operations. ARM drops them after a day as well.
const maxOperations = 10000

func (o *operations) add(op *Operation) {
	if o.byID == nil {
		o.byID = map[string]*Operation{}
	}
	o.byID[op.ID] = op
	o.order = append(o.order, op.ID)
	if len(o.order) > maxOperations {
		delete(o.byID, o.order[0])
		o.order = o.order[1:]
	}
}

// BeginUpdate starts a write, which takes settings.arm.updateDuration. It refuses what Azure
// refuses, with the errors above, and does not change the machine then.
func (w *World) BeginUpdate(id MachineID, change Change) (Operation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	key := id.Key()
	m, live := w.index.machines[key], w.live[key]
	if m == nil {
		return Operation{}, errNoMachine(id)
	}
	if live.operation != "" {
		return Operation{}, ErrBusy
	}
	if change.ETag != "" && change.ETag != "*" && change.ETag != `"`+strconv.Itoa(live.version)+`"` {
		return Operation{}, ErrChanged
	}
	goal, err := w.goal(key, m, change)
	if err != nil {
		return Operation{}, err
	}
	now := w.now()
	op := &Operation{
		ID: NewGUID(), Machine: m.id(w.index.kinds[key]),
		Started: now, Ends: now.Add(time.Duration(w.doc.Settings.ARM.UpdateDuration)),
		Added: missing(goal.user, m.Identities), Removed: missing(m.Identities, goal.user), Failed: change.Fail,
	}
	w.operations.add(op)
	w.versions++
	live.version = w.versions
	live.operation, live.goal = op.ID, goal
	w.settle() // with a duration of 0 it is over already
	return *op, nil
}

// checkNamed rejects a change that names more identities than allowed.
func (w *World) checkNamed(change Change) error {
	if most := w.doc.Settings.ARM.MaxIdentities; most > 0 && len(change.Identities) > most {
		return fmt.Errorf("%w: %d, at most %d", ErrTooMany, len(change.Identities), most)
	}
	if !change.User && len(change.Identities) > 0 {
		return ErrSurplus
	}
	return nil
}

// goal returns the machine's identities after the change.
func (w *World) goal(key string, m *Machine, change Change) (assigned, error) {
	if err := w.checkNamed(change); err != nil {
		return assigned{}, err
	}
	goal := assigned{as: map[string]Identity{}}
	if change.System {
		goal.system = m.SystemAssigned
		if goal.system == nil {
			goal.system = &SystemIdentity{ClientID: GUID(key + "/client"), PrincipalID: GUID(key + "/principal")}
		}
	}
	if !change.User {
		return goal, nil
	}
	if !change.Replace {
		goal.user, goal.as = slices.Clone(m.Identities), maps.Clone(w.live[key].current.as)
	}
	for _, id := range slices.Sorted(maps.Keys(change.Identities)) {
		if !change.Identities[id] {
			goal.drop(id)
		} else if err := w.assign(&goal, id, w.live[key].current); err != nil {
			return assigned{}, err
		}
	}
	if len(goal.user) == 0 {
		return assigned{}, ErrEmpty
	}
	return goal, w.checkDeleted(goal)
}

// assign adds an identity to a machine whose identities are current.
func (w *World) assign(goal *assigned, id string, current assigned) error {
	identity, ok := w.index.identities[Fold(id)]
	if !ok {
		return &UnknownIdentityError{ResourceID: id}
	}
	if identity.Unassignable {
		return ErrUnassignable
	}
	if goal.index(id) < 0 {
		goal.user = append(goal.user, identity.ResourceID)
	}
	if was, listed := current.as[Fold(id)]; listed { // one that is already assigned keeps its binding
		identity = was
	}
	goal.as[Fold(id)] = identity
	return nil
}

// index returns the position of the identity, or -1.
func (a *assigned) index(id string) int {
	return slices.IndexFunc(a.user, func(have string) bool { return EqualFold(have, id) })
}

// drop removes an identity if it is assigned.
func (a *assigned) drop(id string) {
	if at := a.index(id); at >= 0 {
		a.user = slices.Delete(a.user, at, at+1)
		delete(a.as, Fold(id))
	}
}

// checkDeleted rejects a goal with a deleted identity if settings.arm.refuseDeleted is on.
func (w *World) checkDeleted(goal assigned) error {
	if !w.doc.Settings.ARM.RefuseDeleted {
		return nil
	}
	for _, id := range goal.user {
		if _, ok := w.index.identities[Fold(id)]; !ok {
			return &UnknownIdentityError{ResourceID: id}
		}
	}
	return nil
}

// settle ends the writes that are due and updates what IMDS knows.
func (w *World) settle() {
	now := w.now()
	for key, live := range w.live {
		if live.operation != "" {
			op := w.operations.byID[live.operation]
			if op == nil || !now.Before(op.Ends) {
				w.finish(key, live, op, now)
			}
		}
		for len(live.pending) > 0 && !now.Before(live.pending[0].at) {
			live.published = live.pending[0].state
			live.pending = live.pending[1:]
		}
	}
}

func (w *World) finish(key string, live *liveMachine, op *Operation, now time.Time) {
	ended := now
	if op != nil {
		op.Done = true
		ended = op.Ends
		if op.Failed != "" {
			live.operation, live.goal = "", assigned{}
			return
		}
	}
	m := w.index.machines[key]
	m.SystemAssigned, m.Identities = live.goal.system, slices.Clone(live.goal.user)
	at := ended.Add(time.Duration(w.doc.Settings.ARM.IMDSDelay))
	live.pending = append(live.pending, publication{at: at, state: live.goal})
	live.current, live.operation, live.goal = live.goal, "", assigned{}
}

// Operation returns a write by its ID.
func (w *World) Operation(id string) (Operation, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	op := w.operations.byID[Fold(id)]
	if op == nil {
		return Operation{}, false
	}
	return *op, true
}

// missing returns the elements of a that are not in b.
func missing(a, b []string) []string {
	var out []string
	for _, id := range a {
		if !slices.ContainsFunc(b, func(other string) bool { return EqualFold(id, other) }) {
			out = append(out, id)
		}
	}
	return out
}

// NewGUID returns a random GUID (version 4).
func NewGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails according to crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
