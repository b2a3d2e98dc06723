package attachment

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/observe"
)

// answering is a Cloud that gives every update the same answer.
type answering struct {
	Cloud
	err error
}

func (c answering) Patch(context.Context, compute.Group, []string, []string) error { return c.err }

func (answering) Get(context.Context, compute.Group) (compute.Identities, error) {
	return compute.Identities{}, errTest
}

func (answering) Pause(compute.Group, time.Time) time.Duration { return 0 }

// carryOut makes an update as Reconcile does, and returns the stored entries.
func (r *rig) carryOut(m *Controller, answer error) map[string]ledger.Entry {
	r.t.Helper()
	m.cloud, m.metrics = answering{err: answer}, observe.NewMetrics(nil)
	plan := r.plan()
	r.write(m, plan)
	p := &pass{group: r.group, state: r.st, populated: true}
	if _, err := m.update(r.t.Context(), p, plan); err != nil {
		r.t.Fatal(err)
	}
	return r.stored(m)
}

// What Azure plainly refused is not in the ledger: an admin may attach it by hand, and it stays
// when the pod is gone.
func TestRefusedIsNotLedgered(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		code   string
		kept   bool
	}{
		"forbidden": {http.StatusForbidden, "AuthorizationFailed", false},
		"locked":    {http.StatusConflict, "ScopeLocked", false},
		"busy":      {http.StatusConflict, "Conflict", true},
		"failing":   {http.StatusInternalServerError, "InternalError", true},
		"late":      {http.StatusOK, "VMExtensionProvisioningError", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			m := r.controllerOf(new(bool))
			r.place("web", "red")
			written := r.carryOut(m, computetest.Refusal(r.group, c.status, c.code, "no", nil, 0))
			if len(written) > 0 != c.kept {
				t.Fatalf("ledger %v", written)
			}
			have := compute.Identities{}
			if r.read(have); len(r.st.ledger.entries) > 0 {
				t.Errorf("not attached, but in the ledger: %v", r.st.ledger.entries)
			}
			have.UserAssigned = []string{prefix + "red"} // by hand
			r.read(have)
			r.groups.Leave(podNamed("web"))
			r.wantIdle("detaches what another writer attached")
		})
	}
}

// While Azure carries out an update, an identity without confirmation stays in the ledger.
func TestUnconfirmedStays(t *testing.T) {
	r := newRig(t)
	m := r.controllerOf(new(bool))
	r.place("web", "red")
	r.carryOut(m, errTest)
	if r.read(compute.Identities{Updating: true}); !r.st.ledger.unconfirmed(resource(t, "red").Key(), r.st.azure.current) {
		t.Error("dropped from the ledger")
	}
}

// The renewal of another writer's identity is finished even if no pod needs it any more.
func TestRenewalFinished(t *testing.T) {
	begin := func(t *testing.T) (*rig, *Controller) {
		t.Helper()
		r := newRig(t)
		m := r.controllerOf(new(bool))
		r.place("web", "red")
		r.read(compute.Identities{UserAssigned: []string{prefix + "red"}, Orphaned: []string{prefix + "red"}})
		if plan := r.plan(); !slices.Equal(plan.Detach, []string{prefix + "red"}) {
			t.Fatalf("plan %+v", plan)
		}
		return r, m
	}
	t.Run("need ends", func(t *testing.T) {
		r, m := begin(t)
		r.st.ledger.entries = r.carryOut(m, nil) // the next leader reads what is stored
		r.groups.Leave(podNamed("web"))
		r.read(compute.Identities{})
		if plan := r.plan(); !slices.Equal(plan.Attach, []string{prefix + "red"}) || len(plan.Forget) > 0 {
			t.Fatalf("plan %+v", plan)
		}
		r.carryOut(m, nil)
		r.read(compute.Identities{})
		r.wantIdle("attaches again what was detached by hand after the renewal")
	})
	t.Run("not begun", func(t *testing.T) {
		r, m := begin(t)
		if written := r.carryOut(m, computetest.Refusal(r.group, http.StatusForbidden, "AuthorizationFailed", "no", nil, 0)); len(written) > 0 {
			t.Errorf("ledger %v", written)
		}
	})
	t.Run("refused", func(t *testing.T) {
		r, m := begin(t)
		r.carryOut(m, nil)
		r.groups.Leave(podNamed("web"))
		r.carryOut(m, computetest.Refusal(r.group, http.StatusBadRequest, "BadRequest", "no", nil, 0))
		if plan := r.plan(); !plan.Idle() || len(plan.Forget) != 1 {
			t.Errorf("plan %+v", plan)
		}
	})
}

// MIC waits for the update of its predecessor, but not for an autoscaler.
func TestPredecessor(t *testing.T) {
	red := resource(t, "red").Key()
	r := newRig(t)
	r.place("web", "blue")
	r.read(compute.Identities{Updating: true})
	if wait := r.st.azure.predecessorDelay(&r.st.ledger, r.now); wait > 0 {
		t.Errorf("waits %s although nothing of podid's is in flight", wait)
	}
	r.st.ledger.entries[red] = ledger.Entry{ResourceID: prefix + "red"}
	if wait := r.st.azure.predecessorDelay(&r.st.ledger, r.now); wait != pollInterval || r.st.known() {
		t.Errorf("waits %s", wait)
	}
	if wait := r.st.azure.predecessorDelay(&r.st.ledger, r.now.Add(patchTimeout)); wait > 0 {
		t.Errorf("waits %s longer than an update takes", wait)
	}
	r.done(assignment.Request{})
	r.st.beginUpdate()
	if r.read(compute.Identities{Updating: true}); r.st.azure.predecessorDelay(&r.st.ledger, r.now) > 0 {
		t.Error("waits after an update of its own")
	}
}
