// Polls of an operation without a response: the operation continues, and so does the wait for it.

package compute

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

const operations = "/operations/"

func TestLostPolls(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer answer
		most   time.Duration // of an operation of 5 s
		least  time.Duration
	}{
		{"connection refused", answer{status: refused, times: 6}, 2 * time.Minute, 0},
		{"500", answer{status: http.StatusInternalServerError, times: 6}, 2 * time.Minute, 0},
		{"503 with Retry-After", answer{status: http.StatusServiceUnavailable, header: map[string]string{"Retry-After": "20"}, times: 2}, time.Minute, 41 * time.Second},
		{"408", answer{status: http.StatusRequestTimeout, times: 2}, time.Minute, 0},
		{"hangs", answer{status: hangs, times: 3}, 2 * time.Minute, 0},
		{"429", answer{status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": "20"}, times: 3}, 62 * time.Second, 60 * time.Second},
		{"not JSON", answer{status: http.StatusOK, body: "<html>", times: 2}, time.Minute, 0},
		{"once", answer{status: http.StatusBadGateway}, 7 * time.Second, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
				arm.SetDuration(5 * time.Second)
				tt.answer.method, tt.answer.match = http.MethodGet, operations
				arm.fail(tt.answer)
				start := time.Now()
				mustPatch(t, client, group, ids("a"), nil)
				wantTook(t, start, tt.least, tt.most)
				if n := len(arm.seen(http.MethodPatch)); n != 1 {
					t.Errorf("%d writes, want the one", n)
				}
			})
		})
	}
}

// TestLostForGood: the wait ends at the bound of the whole operation, and the error gives the
// cause.
func TestLostForGood(t *testing.T) {
	for _, tt := range []struct {
		name      string
		answer    answer
		says      string
		throttled bool
	}{
		{"connection refused", answer{status: refused}, "connection refused", false},
		{"500", answer{status: http.StatusInternalServerError, body: armBody("InternalServerError", "sorry")}, "sorry", false},
		{"429", answer{status: http.StatusTooManyRequests}, "429", true},
		{"hangs", answer{status: hangs}, "deadline", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
				arm.SetDuration(5 * time.Second)
				tt.answer.method, tt.answer.match, tt.answer.times = http.MethodGet, operations, -1
				arm.fail(tt.answer)
				start := time.Now()
				err := client.Patch(t.Context(), group, ids("a"), nil)
				wantTook(t, start, patchTimeout, patchTimeout)
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tt.says) || IsNotFound(err) || IsConflict(err) {
					t.Errorf("%v, want the deadline, and %q", err, tt.says)
				}
				if _, throttled := RetryAfter(err); throttled != tt.throttled {
					t.Errorf("RetryAfter: %v, want %v: %v", throttled, tt.throttled, err)
				}
				if n := len(arm.seen(http.MethodGet)); n > 60 {
					t.Errorf("%d reads in 10 minutes, want the pauses to grow", n)
				}
			})
		})
	}
}

// TestForgottenOperation: ARM no longer knows the operation, so the client reads the group itself.
// A 404 about an operation never means that the group does not exist.
func TestForgottenOperation(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(20 * time.Second)
		forgotten := answer{method: http.MethodGet, match: operations, status: http.StatusNotFound, body: armBody("NotFound", "no such operation"), times: -1}
		arm.fail(forgotten)
		start := time.Now()
		mustPatch(t, client, group, ids("a"), nil)
		wantTook(t, start, 20*time.Second, 26*time.Second) // the group says Updating for 20 s
	})
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(20 * time.Second)
		arm.fail(answer{method: http.MethodGet, match: operations, status: http.StatusGone, times: -1})
		arm.outcome = `{"code":"InternalExecutionError"}` // the operation fails
		if err := client.Patch(t.Context(), group, ids("a"), nil); !IsConflict(err) {
			t.Errorf("%v, want IsConflict: it is not there", err)
		}
	})
}

// TestLostResult: the operation is over, but reading the outcome fails at first.
func TestLostResult(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(5 * time.Second)
		done := make(chan error, 1)
		go func() { done <- client.Patch(t.Context(), group, ids("a"), nil) }()
		<-time.After(2500 * time.Millisecond)
		arm.fail(answer{method: http.MethodGet, match: "virtualmachinescalesets", status: http.StatusBadGateway, times: 3})
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestCanceledWait: retries end with the caller's context.
func TestCanceledWait(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(time.Minute)
		arm.fail(answer{method: http.MethodGet, match: operations, status: refused, times: -1})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		err := client.Patch(ctx, group, ids("a"), nil)
		if took := time.Since(start); took != 7*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("took %v: %v", took, err)
		}
	})
}

// TestDroppedPolls is TestLostPolls with the emulated Azure, which drops the connection.
func TestDroppedPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		azure, group := newEmulated(t), groupsUnderTest()["vmss"]
		azure.SetGroup(group, Identities{})
		azure.AddIdentities(ids("a")...)
		azure.SetDuration(10 * time.Second)
		azure.fault(world.Fault{Name: "lost", Surface: world.SurfaceARM, Path: "*/operations/*", Drop: true, Count: 5})
		mustPatch(t, newClient(t, "https://arm.example", azure, nil), group, ids("a"), nil)
	})
}
