// Writes that Azure accepts and whose answers are lost.

package compute

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// losing is a transport that loses the responses to writes.
type losing struct {
	transporter
	times  int // responses lost so far
	status int // of a proxy's response instead; 0: no response
}

// Do implements policy.Transporter.
func (l *losing) Do(req *http.Request) (*http.Response, error) {
	resp, err := l.transporter.Do(req)
	if req.Method != http.MethodPatch || l.times == 0 || err != nil {
		return resp, err
	}
	l.times--
	if l.status == 0 {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
	}
	return &http.Response{StatusCode: l.status, Body: io.NopCloser(strings.NewReader("<html>")), Request: req, Header: http.Header{}}, nil
}

// TestLostAnswer: the retry meets the client's own update. Patch returns when that is over, and
// writes once.
func TestLostAnswer(t *testing.T) {
	for _, tt := range []struct {
		name         string
		lost, status int
		hides        bool
		writes       int
	}{
		{"reset", 1, 0, false, 2},
		{"502", 1, http.StatusBadGateway, false, 2},
		{"shown at the end", 1, 0, true, 2},
		{"every one", maxRetries + 1, 0, false, maxRetries + 1},
		{"every one, shown at the end", maxRetries + 1, http.StatusBadGateway, true, maxRetries + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, _ *Client, group Group) {
				arm.SetDuration(40 * time.Second)
				arm.hides = tt.hides
				client := arm.client("https://arm.example", &losing{transporter: arm, times: tt.lost, status: tt.status}, nil)
				start := time.Now()
				mustPatch(t, client, group, ids("a"), nil)
				wantTook(t, start, 40*time.Second, 50*time.Second)
				wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
				if n := len(arm.seen(http.MethodPatch)); n != tt.writes {
					t.Errorf("%d writes, want %d", n, tt.writes)
				}
			})
		})
	}
}

// TestLostToConflict is TestLostAnswer with the emulated Azure, which refuses the retry as a
// conflict.
func TestLostToConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		azure, group := newEmulated(t), groupsUnderTest()["vm"]
		azure.SetGroup(group, Identities{})
		azure.AddIdentities(ids("a")...)
		azure.SetDuration(40 * time.Second)
		azure.fault(world.Fault{Name: "lost", Surface: world.SurfaceARM, Method: http.MethodPatch, Drop: true, After: true, Count: 1})
		client, start := newClient(t, "https://arm.example", azure, nil), time.Now()
		mustPatch(t, client, group, ids("a"), nil)
		if took := time.Since(start); took < 40*time.Second {
			t.Errorf("took %v, want Azure's 40 s", took)
		}
		wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
		if writes := azure.World.Log().Find(world.Filter{Method: http.MethodPatch}); len(writes) != 2 {
			t.Errorf("%d writes, want the lost one and its retry", len(writes))
		}
	})
}

// TestLostAndFailed: an update whose answer was lost fails, and is sent again.
func TestLostAndFailed(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, _ *Client, group Group) {
		arm.SetDuration(20 * time.Second)
		arm.outcome = `{"code":"InternalExecutionError"}`
		client := arm.client("https://arm.example", &losing{transporter: arm, times: 1}, nil)
		mustPatch(t, client, group, ids("a"), nil)
		wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
	})
}

// TestLostAndOvertaken: the write whose response was lost had no effect, and its retry meets
// another writer's update.
func TestLostAndOvertaken(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.fail(answer{method: http.MethodPatch, status: http.StatusServiceUnavailable})
		arm.fail(answer{method: http.MethodPatch, status: http.StatusConflict, body: armBody("Conflict", "busy")})
		mustPatch(t, client, group, ids("a"), nil)
		locked := answer{method: http.MethodPatch, status: http.StatusConflict, body: armBody("ScopeLocked", "locked"), times: 2}
		arm.fail(answer{method: http.MethodPatch, status: http.StatusServiceUnavailable})
		arm.fail(locked)
		if err := client.Patch(t.Context(), group, ids("b"), nil); !IsLocked(err) || Definite(err) {
			t.Errorf("%v, want IsLocked", err)
		}
		if n := len(arm.seen(http.MethodPatch)); n != 5 {
			t.Errorf("%d writes, want 5: a lock is no reason to write again", n)
		}
	})
}

// TestLostInLongUpdate: Azure's update does not end, so the wait ends at the bound of a Patch.
func TestLostInLongUpdate(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, _ *Client, group Group) {
		arm.SetDuration(time.Hour)
		client, start := arm.client("https://arm.example", &losing{transporter: arm, times: 1}, nil), time.Now()
		err := client.Patch(t.Context(), group, ids("a"), nil)
		if took := time.Since(start); took != patchTimeout || !errors.Is(err, context.DeadlineExceeded) || Definite(err) {
			t.Errorf("took %v: %v, want the deadline after %v", took, err, patchTimeout)
		}
		start = time.Now()
		if err := client.Patch(t.Context(), group, ids("a"), nil); !IsConflict(err) { // no response to this client was lost
			t.Errorf("%v, want a conflict with the update under way", err)
		}
		wantTook(t, start, 0, time.Second) // it does not wait for another writer's update
	})
}

// TestLostThenRefused: the response to the retry says nothing about the previous write.
func TestLostThenRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		lost   int
		answer answer
		want   bool
	}{
		{"refused", 0, answer{status: http.StatusForbidden, body: armBody("AuthorizationFailed", "no")}, true},
		{"throttled", 0, answer{status: http.StatusTooManyRequests}, true},
		{"no connection", 0, answer{status: refused, times: -1}, false},
		{"500", 0, answer{status: http.StatusInternalServerError, body: armBody("InternalError", "sorry"), times: -1}, false},
		{"hangs", 0, answer{status: hangs, times: -1}, false},
		{"refused after", 1, answer{status: http.StatusForbidden, body: armBody("AuthorizationFailed", "no")}, false},
		{"throttled after", 1, answer{status: http.StatusTooManyRequests}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, _ *Client, group Group) {
				tt.answer.method = http.MethodPatch
				if tt.lost > 0 {
					arm.fail(answer{method: http.MethodPatch, status: http.StatusBadRequest}) // its response is lost
				}
				arm.fail(tt.answer)
				err := arm.client("https://arm.example", &losing{transporter: arm, times: tt.lost}, nil).Patch(t.Context(), group, ids("a"), nil)
				if err == nil || Definite(err) != tt.want {
					t.Errorf("Definite = %v, want %v: %v", Definite(err), tt.want, err)
				}
			})
		})
	}
}

// TestIdentityNotFound: only Azure's own error about the identity counts.
func TestIdentityNotFound(t *testing.T) {
	for _, tt := range []struct {
		name string
		answer
		want bool
	}{
		{"gone", answer{status: http.StatusNotFound, body: armBody("ResourceNotFound", "gone")}, true},
		{"its resource group", answer{status: http.StatusNotFound, body: armBody("ResourceGroupNotFound", "gone")}, true},
		{"its subscription", answer{status: http.StatusNotFound, body: armBody("SubscriptionNotFound", "not in this tenant")}, false},
		{"no right", answer{status: http.StatusForbidden, body: armBody("AuthorizationFailed", "no")}, false},
		{"a proxy", answer{status: http.StatusNotFound, body: "<html><code>NotFound</code></html>"}, false},
		{"away", answer{status: refused, times: -1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, client *Client, _ Group) {
				tt.method = http.MethodGet
				arm.fail(tt.answer)
				if _, err := client.ClientID(t.Context(), idPrefix+"a"); err == nil || IdentityNotFound(err) != tt.want {
					t.Errorf("IdentityNotFound = %v: %v", IdentityNotFound(err), err)
				}
			})
		})
	}
}
