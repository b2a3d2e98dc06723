// The conformance test with the project's own emulated Azure, which shares no code with the client.

package compute

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/emulator/arm"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// emulated sets up an emulated Azure for the scenarios.
type emulated struct {
	t       *testing.T
	world   *world.World
	handler http.Handler
}

// anyone accepts every token as one of the subscription's owner.
type anyone struct{}

func (anyone) Verify(string) (entra.Principal, error) {
	return entra.Principal{ClientID: clientGUID, PrincipalID: clientGUID, TenantID: subGUID, Audience: "https://management.azure.com/"}, nil
}

func newEmulated(t *testing.T) *emulated {
	t.Helper()
	document := world.Document{Location: "here", Tenants: []world.Tenant{{ID: subGUID}}, Subscriptions: []world.Subscription{{ID: subGUID}}, Settings: world.DefaultSettings()}
	document.Settings.ARM.UpdateDuration = 0
	document.Settings.Limits.Enabled = false
	w, err := world.New(document, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	handler := arm.NewHandler(w, anyone{}, arm.Endpoints{ARM: "https://arm.example", Entra: "https://login.example"}, log)
	surface := front.Surface{Name: world.SurfaceARM, World: w, Log: log, WriteError: handler.WriteError, Latency: func(world.Settings) time.Duration { return 0 }}
	return &emulated{t: t, world: w, handler: surface.Handler(handler)}
}

// Do implements policy.Transporter.
func (e *emulated) Do(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	if req.Host == "" {
		req.Host = req.URL.Host
	}
	w := httptest.NewRecorder()
	aborted := func() (aborted bool) {
		defer func() { aborted = recover() != nil }() // http.ErrAbortHandler
		e.handler.ServeHTTP(w, req)
		return false
	}()
	if aborted {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
	}
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

func (e *emulated) edit(change func(*world.Document)) {
	e.t.Helper()
	if err := e.world.Edit(func(d *world.Document) error { change(d); return nil }); err != nil {
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
	if err := e.world.SetFault(f); err != nil {
		e.t.Fatal(err)
	}
}

func (e *emulated) SetDuration(d time.Duration) {
	e.edit(func(document *world.Document) { document.Settings.ARM.UpdateDuration = world.Duration(d) })
}

func (e *emulated) ThrottleNext(retryAfter time.Duration) {
	e.fault(world.Fault{Name: "throttle", Surface: world.SurfaceARM, Method: http.MethodPatch, Status: http.StatusTooManyRequests, RetryAfter: int(retryAfter.Seconds()), Count: 1})
}
