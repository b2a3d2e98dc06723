// MIC with the real ARM client, against the emulator.

package model

import (
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/emulator/arm"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	emulator "github.com/podid-io/podid/internal/emulator/world"
)

// emulatedARM is the emulator's ARM API without a network.
type emulatedARM struct {
	world   *emulator.World
	handler http.Handler
	silent  bool // no response has the headers with the remaining calls
}

// owner accepts every token as one of the subscription's owner.
type owner struct{}

func (owner) Verify(string) (entra.Principal, error) {
	return entra.Principal{ClientID: other, PrincipalID: other, TenantID: subscription, Audience: "https://management.azure.com/"}, nil
}

func newEmulatedARM(t *testing.T, edit func(*emulator.Document)) *emulatedARM {
	t.Helper()
	document := emulator.Document{
		Location: "here", Tenants: []emulator.Tenant{{ID: subscription}}, Subscriptions: []emulator.Subscription{{ID: subscription}},
		Settings: emulator.DefaultSettings(),
	}
	edit(&document)
	w, err := emulator.New(document, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	handler := arm.NewHandler(w, owner{}, arm.Endpoints{ARM: "https://arm.example", Entra: "https://login.example"}, log)
	surface := front.Surface{
		Name: emulator.SurfaceARM, World: w, Log: log, WriteError: handler.WriteError,
		Latency: func(emulator.Settings) time.Duration { return 0 },
	}
	return &emulatedARM{world: w, handler: surface.Handler(handler)}
}

// Do implements policy.Transporter.
func (e *emulatedARM) Do(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	if req.Host == "" {
		req.Host = req.URL.Host
	}
	recorder := httptest.NewRecorder()
	e.handler.ServeHTTP(recorder, req)
	resp := recorder.Result()
	resp.Request = req
	if e.silent {
		maps.DeleteFunc(resp.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "X-Ms-Ratelimit-") })
	}
	return resp, nil
}

// client returns MIC's client for this ARM.
func (e *emulatedARM) client(t *testing.T) *compute.Client {
	t.Helper()
	c, err := compute.New(compute.Options{
		Credential: &fake.TokenCredential{}, Transport: e,
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: "https://login.example/",
			Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
				cloud.ResourceManager: {Endpoint: "https://arm.example", Audience: "https://arm.example/"},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
