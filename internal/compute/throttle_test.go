// Tests of the limits together with the requests.

package compute

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

const throttledByARM = "SubscriptionRequestsThrottled"

// TestSubscriptionStops: Resource Manager's own 429 applies to every group of the subscription, and
// to either reads or writes.
func TestSubscriptionStops(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		t.Run(method, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
				other, elsewhere := group, group
				other.Name = "other"
				elsewhere.SubscriptionID = clientGUID
				for _, g := range []Group{other, elsewhere} {
					arm.SetGroup(g, Identities{})
				}
				arm.fail(answer{
					method: method, status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": "17"}, body: armBody(throttledByARM, "exceeded"),
				})
				err := client.Patch(t.Context(), group, ids("a"), nil)
				if wait, ok := RetryAfter(err); !ok || wait != 17*time.Second {
					t.Fatalf("RetryAfter(%v) = %v, %v", err, wait, ok)
				}
				asked := len(arm.seen(""))
				for _, g := range []Group{group, other} {
					if wait := client.Pause(g, time.Time{}); wait < 17*time.Second || wait > 18*time.Second {
						t.Errorf("Pause(%s) = %v, want 17 s and a little", g, wait)
					}
				}
				if wait := client.Pause(elsewhere, time.Time{}); wait != 0 {
					t.Errorf("Pause of another subscription = %v", wait)
				}
				if wait, ok := RetryAfter(client.Patch(t.Context(), other, ids("a"), nil)); !ok || wait != 17*time.Second {
					t.Errorf("meanwhile: %v, %v, want a refusal", wait, ok)
				}
				if method == http.MethodGet && len(arm.seen("")) != asked {
					t.Error("Azure was asked in spite of its Retry-After")
				}
				if _, err := client.Get(t.Context(), other); (err != nil) != (method == http.MethodGet) {
					t.Errorf("reading while %s must stop: %v", method, err)
				}
				mustPatch(t, client, elsewhere, ids("a"), nil)
				<-time.After(18 * time.Second)
				if wait := client.Pause(other, time.Time{}); wait != 0 {
					t.Errorf("Pause = %v afterwards", wait)
				}
				mustPatch(t, client, other, ids("a"), nil)
			})
		})
	}
}

// TestPollsOutlastStop: an operation whose reads are blocked is polled in the second in which they
// are allowed again.
func TestPollsOutlastStop(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(10 * time.Second)
		arm.fail(answer{
			method: http.MethodGet, match: operations, status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": "300"},
			body: armBody(throttledByARM, "exceeded"),
		})
		start := time.Now()
		mustPatch(t, client, group, ids("a"), nil)
		wantTook(t, start, 301*time.Second, 303*time.Second) // Retry-After is obeyed, and the operation kept
	})
}

// TestUnsentIsNoCall: requests that were not sent do not count as calls to Azure.
func TestUnsentIsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arm, group, calls := newARM(t), groupsUnderTest()["vm"], 0
		arm.SetGroup(group, Identities{})
		client := arm.client("https://arm.example", arm, func(string, time.Duration, error) { calls++ })
		arm.fail(answer{method: http.MethodGet, status: http.StatusTooManyRequests})
		for range 5 {
			if _, err := client.Get(t.Context(), group); err == nil {
				t.Fatal("no error")
			}
		}
		if calls != 1 || len(arm.seen("")) != 1 {
			t.Errorf("%d calls, %d requests, want one", calls, len(arm.seen("")))
		}
	})
}

// TestWithinLimits: many groups at once, at Azure's own limits, never cause a 429.
func TestWithinLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		azure := newEmulated(t)
		azure.edit(func(d *world.Document) {
			d.Settings.Limits.Enabled = true
			d.Settings.Limits.MachineReads = world.Bucket{Size: 36, PerMinute: 12}
			d.Settings.Limits.OperationReads = world.Bucket{Size: 45, PerMinute: 15}
		})
		azure.SetDuration(40 * time.Second)
		azure.AddIdentities(ids("a", "b")...)
		client := newClient(t, "https://arm.example", azure, nil)
		var all sync.WaitGroup
		azure.edit(func(d *world.Document) {
			for i := range 150 {
				d.ScaleSets = append(d.ScaleSets, world.Machine{SubscriptionID: subGUID, ResourceGroup: "rg", Name: "set" + strconv.Itoa(i)})
			}
		})
		for i := range 150 {
			group := groupsUnderTest()["vmss"]
			group.Name = "set" + strconv.Itoa(i)
			all.Go(func() {
				for _, id := range ids("a", "b") {
					if err := client.Patch(t.Context(), group, []string{id}, nil); err != nil {
						t.Errorf("%s: %v", group, err)
					}
				}
			})
		}
		start := time.Now()
		all.Wait()
		if took := time.Since(start); took > 5*time.Minute {
			t.Errorf("took %v", took)
		}
		if refused := azure.World.Log().Find(world.Filter{Status: http.StatusTooManyRequests}); len(refused) > 0 {
			t.Errorf("%d requests refused, the first: %+v", len(refused), refused[0])
		}
		t.Logf("%d requests in %v", len(azure.World.Log().Find(world.Filter{})), time.Since(start))
	})
}
