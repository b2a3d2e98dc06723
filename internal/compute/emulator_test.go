// The conformance test with the project's own emulated Azure, which shares no code with the client.

package compute

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/emulator/arm/armtest"
	"github.com/podid-io/podid/internal/emulator/world"
)

// emulated sets up an emulated Azure for the scenarios.
type emulated struct {
	*armtest.ARM
	t *testing.T
}

func newEmulated(t *testing.T) *emulated {
	t.Helper()
	return &emulated{t: t, ARM: armtest.New(t, subGUID, clientGUID, func(d *world.Document) {
		d.Settings.ARM.UpdateDuration = 0
		d.Settings.Limits.Enabled = false
	})}
}

func (e *emulated) edit(change func(*world.Document)) {
	e.t.Helper()
	if err := e.World.Edit(func(d *world.Document) error { change(d); return nil }); err != nil {
		e.t.Fatal(err)
	}
}

func (e *emulated) SetGroup(group Group, have Identities) {
	e.AddIdentities(have.UserAssigned...)
	e.edit(func(d *world.Document) {
		machine := world.Machine{SubscriptionID: group.SubscriptionID, ResourceGroup: group.ResourceGroup, Name: group.Name, Identities: have.UserAssigned}
		if have.SystemAssigned {
			machine.SystemAssigned = &world.SystemIdentity{ClientID: world.NewGUID(), PrincipalID: world.NewGUID()}
		}
		list := &d.VirtualMachines
		if group.Kind == VMSS {
			list = &d.ScaleSets
		}
		*list = append(slices.DeleteFunc(*list, func(m world.Machine) bool { return m.Name == group.Name }), machine)
	})
}

func (e *emulated) AddIdentities(resourceIDs ...string) {
	e.edit(func(d *world.Document) {
		for _, id := range resourceIDs {
			if !slices.ContainsFunc(d.Identities, func(i world.Identity) bool { return strings.EqualFold(i.ResourceID, id) }) {
				d.Identities = append(d.Identities, world.Identity{ResourceID: id, ClientID: world.NewGUID(), PrincipalID: world.NewGUID()})
			}
		}
	})
}

func (e *emulated) DeleteIdentity(resourceID string) {
	e.edit(func(d *world.Document) {
		d.Identities = slices.DeleteFunc(d.Identities, func(i world.Identity) bool { return strings.EqualFold(i.ResourceID, resourceID) })
	})
}

func (e *emulated) KeepStaleIDs(keep bool) {
	e.edit(func(d *world.Document) { d.Settings.ARM.StaleIDs = keep })
}

func (e *emulated) RefuseDeleted(refuse bool) {
	e.edit(func(d *world.Document) { d.Settings.ARM.RefuseDeleted = refuse })
}

func (e *emulated) PreemptNext() {
	e.fault(world.Fault{Name: "preempt", Surface: world.SurfaceARM, Method: http.MethodPatch, Operation: "OperationPreempted", Count: 1})
}

func (e *emulated) fault(f world.Fault) {
	e.t.Helper()
	if err := e.World.SetFault(f); err != nil {
		e.t.Fatal(err)
	}
}

func (e *emulated) SetDuration(d time.Duration) {
	e.edit(func(document *world.Document) { document.Settings.ARM.UpdateDuration = world.Duration(d) })
}

func (e *emulated) ThrottleNext(retryAfter time.Duration) {
	e.fault(world.Fault{Name: "throttle", Surface: world.SurfaceARM, Method: http.MethodPatch, Status: http.StatusTooManyRequests, RetryAfter: int(retryAfter.Seconds()), Count: 1})
}
