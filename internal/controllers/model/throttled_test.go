// MIC on the real ARM client, against the emulator: how long pods wait when Azure
// throttles.

package model

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/emulator/arm"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	emulator "github.com/podid-io/podid/internal/emulator/world"
)

// emulatedARM is the emulator's ARM surface, without a network.
type emulatedARM struct {
	world   *emulator.World
	handler http.Handler
	silent  bool // no answer says how many calls are left
}

// owner accepts every token as that of the subscription's owner.
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

// Do is policy.Transporter.
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

// client is MIC's, on this ARM.
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

const throttledPods, throttledFor, throttledUpdate = 5, 3 * time.Second, 2 * time.Second

// TestThrottledOnce: five pods start, and Azure answers one request with 429 and Retry-After. They wait as long as Azure
// asked, plus the update, plus at most half a second.
func TestThrottledOnce(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	const bySubscription = "SubscriptionRequestsThrottled"
	const operations, group = "*/providers/microsoft.compute/locations/*", "*/virtualmachinescalesets/*"
	for name, fault := range map[string]emulator.Fault{
		"the first read":                      {Method: http.MethodGet},
		"the first read, by the subscription": {Method: http.MethodGet, Code: bySubscription},
		"the read before the update":          {Method: http.MethodGet, Skip: 1},
		"the update":                          {Method: http.MethodPatch},
		"the update, by the subscription":     {Method: http.MethodPatch, Code: bySubscription},
		"the first look at the operation":     {Method: http.MethodGet, Path: operations},
		"the last look at the operation":      {Method: http.MethodGet, Path: operations, Skip: 1},
		"the read after the operation":        {Method: http.MethodGet, Path: group, Skip: 3},
	} {
		for _, counts := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, Azure says what is left: %t", name, counts), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { throttledOnce(t, fault, counts) })
			})
		}
	}
}

func throttledOnce(t *testing.T, fault emulator.Fault, counts bool) {
	t.Helper()
	azure := newEmulatedARM(t, func(d *emulator.Document) {
		d.Settings.ARM.UpdateDuration = emulator.Duration(throttledUpdate)
		d.ScaleSets = []emulator.Machine{{SubscriptionID: subscription, ResourceGroup: "rg", Name: "set"}}
		for n := range throttledPods {
			d.Identities = append(d.Identities, emulator.Identity{
				ResourceID: resourceID(n), ClientID: emulator.NewGUID(), PrincipalID: emulator.NewGUID(),
			})
		}
	})
	azure.silent = !counts
	fault.Name, fault.Surface, fault.Status, fault.Count = "once", emulator.SurfaceARM, http.StatusTooManyRequests, 1
	fault.RetryAfter = int(throttledFor.Seconds())
	if err := azure.world.SetFault(fault); err != nil {
		t.Fatal(err)
	}
	w := newWorld(setup{Namespaced: true, Grace: time.Hour, Writers: throttledPods}, io.Discard)
	w.cloud = azure.client(t)
	must(w.server.create(newNode(0, providerIDs()[0])))
	w.start()
	synctest.Wait()
	began := time.Now()
	for n := range throttledPods {
		name := types.NamespacedName{Namespace: "x", Name: fmt.Sprint("p", n)}
		must(w.server.create(newIdentity(name, n)))
		must(w.server.create(newBinding(name, name.Name, name.Name)))
		must(w.server.create(newPod(name, nodeName(0), name.Name)))
	}
	took := w.allAssigned(throttledPods, began.Add(time.Minute)).Sub(began)
	w.mic.stop()
	if most := throttledFor + throttledUpdate + time.Second/2; took > most {
		t.Errorf("all assigned after %v, want %v at most", took, most)
	}
	refused := 0
	for _, r := range azure.world.Log().Find(emulator.Filter{}) {
		t.Log(r.Time.Sub(began), r.Method, r.Status, r.Path)
		if r.Status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("Azure refused %d requests, want one", refused)
	}
}

// allAssigned waits until that many pods have what they need, and returns when they had.
func (w *world) allAssigned(pods int, until time.Time) time.Time {
	for time.Now().Before(until) {
		assigned := 0
		for _, a := range listOf[*v1.AzureAssignedIdentity](w.server.list) {
			if a.Status.Status == v1.StateAssigned {
				assigned++
			}
		}
		if assigned == pods {
			break
		}
		w.wait(10 * time.Millisecond)
	}
	return time.Now()
}
