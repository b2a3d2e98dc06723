// Limits, and operations that fail.

package arm_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

func TestThrottle(t *testing.T) {
	c := newCloud(t, func(d *world.Document) {
		d.Settings.ARM.UpdateDuration = 0
		d.Settings.Limits.ScaleSetWrites = world.Bucket{Size: 1, PerMinute: 4}
		d.Settings.Limits.Reads = world.Bucket{Size: 1, PerMinute: 60}
	})
	body := identities(ids+"demo-identity", "{}")
	if a := c.do("PATCH", vmss+version, body); a.status != 200 || a.header.Get("X-Ms-Ratelimit-Remaining-Resource") != "Microsoft.Compute/UpdateVMScaleSetResource;0" {
		t.Errorf("first write: %d %v", a.status, a.header)
	}
	if a := c.do("PATCH", vmss+version, body); a.status != 429 || a.code() != "OperationNotAllowed" || a.header.Get("Retry-After") != "15" ||
		a.header.Get("X-Ms-Failure-Cause") != "" || a.header.Get("X-Ms-Ratelimit-Remaining-Subscription-Writes") != "198" {
		t.Errorf("second write: %d %s %v", a.status, a.code(), a.header)
	}
	if a := c.do("PATCH", vm+version, body); a.status != 200 {
		t.Errorf("write to another machine: %d", a.status)
	}
	c.do("GET", vm+version, "")
	if a := c.do("GET", vm+version, ""); a.status != 429 || a.header.Get("X-Ms-Ratelimit-Remaining-Subscription-Reads") != "0" ||
		a.code() != "SubscriptionRequestsThrottled" || a.header.Get("X-Ms-Failure-Cause") != "gateway" {
		t.Errorf("second read: %d %s %v", a.status, a.code(), a.header)
	}
}

// TestThrottleReads: reads of a machine and polls of its operations have separate buckets.
func TestThrottleReads(t *testing.T) {
	c := newCloud(t, func(d *world.Document) {
		d.Settings.Limits.MachineReads = world.Bucket{Size: 1, PerMinute: 12}
		d.Settings.Limits.OperationReads = world.Bucket{Size: 1, PerMinute: 15}
	})
	operation := strings.TrimPrefix(c.do("PATCH", vmss+version, identities(ids+"demo-identity", "{}")).header.Get("Azure-Asyncoperation"), base)
	for target, want := range map[string]string{
		vmss + version: "Microsoft.Compute/LowCostGetVMScaleSetResource;0 5", operation: "Microsoft.Compute/GetOperationResource;0 4",
		vm + version: "Microsoft.Compute/LowCostGetVMResource;0 5",
	} {
		first, second := c.do("GET", target, ""), c.do("GET", target, "")
		have := first.header.Get("X-Ms-Ratelimit-Remaining-Resource") + " " + second.header.Get("Retry-After")
		if first.status != 200 || second.status != 429 || have != want {
			t.Errorf("%s: %d, %d, %q, want %q", target, first.status, second.status, have, want)
		}
	}
}

// TestPreempted: an operation is accepted and then fails.
func TestPreempted(t *testing.T) {
	for code, status := range map[string]string{"OperationPreempted": "Canceled", "InternalExecutionError": "Failed"} {
		t.Run(code, func(t *testing.T) {
			c := newCloud(t, nil)
			if err := c.world.SetFault(world.Fault{Name: "f", Surface: "arm", Method: "PATCH", Operation: code, Count: 1}); err != nil {
				t.Fatal(err)
			}
			surface := front.Surface{Name: "arm", World: c.world, Log: slog.New(slog.DiscardHandler), Latency: func(world.Settings) time.Duration { return 0 }}
			c.handler = surface.Handler(c.handler)
			a := c.do("PATCH", vmss+version, identities(ids+"demo-identity", "{}"))
			operation := strings.TrimPrefix(a.header.Get("Azure-Asyncoperation"), base)
			if got := c.do("GET", operation, ""); a.status != 200 || got.body["status"] != "InProgress" {
				t.Errorf("accepted: %d, %v", a.status, got.body)
			}
			if got := c.do("PATCH", vmss+version, identities(ids+"demo-identity", "{}")); got.status != 409 {
				t.Errorf("meanwhile: %d", got.status)
			}
			c.now = c.now.Add(time.Minute)
			got := c.do("GET", operation, "")
			if got.status != 200 || got.body["status"] != status || got.code() != code {
				t.Errorf("at the end: %d, %v", got.status, got.body)
			}
			if got := c.do("GET", strings.TrimPrefix(a.header.Get("Location"), base), ""); got.status != 409 || got.code() != code {
				t.Errorf("monitor: %d, %v", got.status, got.body)
			}
			if got := c.do("GET", vmss+version, ""); got.body["identity"] != nil || state(got) != "Succeeded" {
				t.Errorf("the machine: %v", got.body)
			}
			if got := c.do("PATCH", vmss+version, identities(ids+"demo-identity", "{}")); got.status != 200 {
				t.Errorf("again: %d", got.status)
			}
		})
	}
}
