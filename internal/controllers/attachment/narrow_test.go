package attachment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

// opaque is a Cloud that does not name bad identities, or whose lookups fail.
type opaque struct {
	*computetest.Fake
	anonymous bool
	lookupErr error
	updates   int
}

func (c *opaque) Patch(ctx context.Context, group compute.Group, attach, detach []string) error {
	c.updates++
	err := c.Fake.Patch(ctx, group, attach, detach)
	if c.anonymous && compute.IsRefused(err) {
		return computetest.Refusal(group, http.StatusBadRequest, "BadRequest", "one of them is bad", nil, 0)
	}
	return err
}

func (c *opaque) ClientID(ctx context.Context, id string) (string, error) {
	if c.lookupErr != nil {
		return "", c.lookupErr
	}
	return c.Fake.ClientID(ctx, id)
}

// Many identities that do not exist do not use up the group's updates.
func TestManyBad(t *testing.T) {
	for name, c := range map[string]struct {
		anonymous bool
		lookupErr error
		most      int
	}{
		"named":         {false, nil, 3},
		"anonymous":     {true, nil, 2},
		"not looked up": {false, errors.New("no right"), 21},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			cloud := &opaque{Fake: computetest.NewFake(), anonymous: c.anonymous, lookupErr: c.lookupErr}
			cloud.SetGroup(r.group, compute.Identities{})
			m := NewController(Parts{Groups: r.groups, Cloud: cloud, Metrics: observe.NewMetrics(nil)}, Settings{AllowClusterIdentities: true})
			var names []string
			for i := range 40 {
				names = append(names, fmt.Sprintf("%02d", i))
				if i%2 == 0 {
					cloud.AddIdentities(prefix + names[i])
				}
			}
			r.place("web", names...)
			p := &pass{group: r.group, state: r.st}
			plan := r.plan()
			r.record(plan.Attach)
			if err := m.apply(t.Context(), p, plan); err != nil {
				t.Fatal(err)
			}
			have, err := cloud.Get(t.Context(), r.group)
			if err != nil || len(have.UserAssigned) != 20 || cloud.updates > c.most {
				t.Errorf("%d there after %d updates, want 20 after %d (%v)", len(have.UserAssigned), cloud.updates, c.most, err)
			}
			if got := r.place("late", "39"); got.Reason != reason.IdentityRefused.Name() || !strings.Contains(got.Message, "39") || strings.Contains(got.Message, "37") {
				t.Errorf("a bad one: %+v", got)
			}
			if plan := r.plan(); !plan.Idle() || slices.Contains(plan.Attach, prefix+"01") {
				t.Errorf("left: %+v", plan)
			}
		})
	}
}

// Pods are notified of a lock at once, and of other failures within a minute, until they end.
func TestTroubleIsReported(t *testing.T) {
	refusal := func(status int, code string) error {
		return computetest.Refusal(compute.Group{}, status, code, "no", nil, 0)
	}
	r := newRig(t)
	r.place("web", "red")
	if pause, _ := r.st.failed(refusal(http.StatusConflict, "ScopeLocked"), backOffMax, r.now); pause < conflictMax {
		t.Errorf("retried after %v", pause)
	}
	if got := r.place("web", "red"); got.Reason != reason.GroupLocked.Name() || !strings.Contains(got.Message, "lock") {
		t.Errorf("locked: %+v", got)
	}
	for name, cause := range map[string]error{
		"failing": refusal(http.StatusInternalServerError, "InternalError"), "busy": refusal(http.StatusConflict, "Conflict"),
	} {
		r := newRig(t)
		r.place("web", "red")
		r.st.failed(cause, time.Second, r.now)
		r.now = r.now.Add(complainLatest)
		r.st.failed(cause, time.Second, r.now)
		r.read(compute.Identities{}) // before each try
		if got := r.place("web", "red"); got.Complaint == "" {
			t.Errorf("%s: not reported", name)
		}
		r.done(assignment.Request{})
		if got := r.place("web", "red"); got.Complaint != "" {
			t.Errorf("%s: still reported after an update succeeded", name)
		}
	}
}
