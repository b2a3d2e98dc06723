// How long pods wait when Azure throttles.

package model

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	v1 "github.com/podid-io/podid/api/v1"
	emulator "github.com/podid-io/podid/internal/emulator/world"
)

const throttledPods, throttledFor, throttledUpdate = 5, 3 * time.Second, 2 * time.Second

// TestThrottledOnce: five pods start, and Azure answers one request with 429 and Retry-After. They
// wait as long as Azure asked, plus the update, plus at most half a second.
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
		"the read after the operation":        {Method: http.MethodGet, Path: group, Skip: 2},
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
	if err := azure.World.SetFault(fault); err != nil {
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
	for _, r := range azure.World.Log().Find(emulator.Filter{}) {
		t.Log(r.Time.Sub(began), r.Method, r.Status, r.Path)
		if r.Status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("Azure refused %d requests, want one", refused)
	}
}

// allAssigned waits until that many pods have what they need, and returns the time when they did.
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
