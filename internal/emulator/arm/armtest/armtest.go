// Package armtest is the emulated Azure Resource Manager for tests of ARM clients: without a
// network, and thus on the clock of a synctest bubble. One goroutine or many may use it.
package armtest

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/emulator/arm"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// Endpoint is the address that clients use.
const Endpoint = "https://arm.example"

// ARM is the transport of clients.
type ARM struct {
	World   *world.World
	handler http.Handler
}

// caller accepts every token, as one of this principal.
type caller entra.Principal

func (c caller) Verify(string) (entra.Principal, error) { return entra.Principal(c), nil }

// New returns an ARM with one subscription, which is also the only tenant, after edit has changed
// its world. All requests are those of the principal.
func New(t testing.TB, subscription, principal string, edit func(*world.Document)) *ARM {
	t.Helper()
	document := world.Document{
		Location: "here", Tenants: []world.Tenant{{ID: subscription}}, Subscriptions: []world.Subscription{{ID: subscription}},
		Settings: world.DefaultSettings(),
	}
	edit(&document)
	w, err := world.New(document, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	from := caller{ClientID: principal, PrincipalID: principal, TenantID: subscription, Audience: "https://management.azure.com/"}
	handler := arm.NewHandler(w, from, arm.Endpoints{ARM: Endpoint, Entra: "https://login.example"}, log)
	surface := front.Surface{
		Name: world.SurfaceARM, World: w, Log: log, WriteError: handler.WriteError,
		Latency: func(world.Settings) time.Duration { return 0 },
	}
	return &ARM{World: w, handler: surface.Handler(handler)}
}

// Do implements policy.Transporter.
func (a *ARM) Do(req *http.Request) (*http.Response, error) {
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
		a.handler.ServeHTTP(w, req)
		return false
	}()
	if aborted {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
	}
	resp := w.Result()
	resp.Request = req
	return resp, nil
}
