package token_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
	"github.com/podid-io/podid/internal/reason"
)

const (
	ownClient    = "11111111-2222-3333-4444-555555555555"
	victimClient = "99999999-8888-7777-6666-555555555555"
)

// TestOtherIdentityThroughCache checks that the cache never returns a token of another identity,
// and remembers the refusal: ahead of requests, by request, by object ID, and when a token in use
// is refreshed.
func TestOtherIdentityThroughCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		subject, calls := victimClient, 0
		answer := func() string {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return sourcetest.Reply(sourcetest.JWT(map[string]any{"appid": subject, "oid": "object of " + subject}), subject)
		}
		count := func() int { mu.Lock(); defer mu.Unlock(); return calls }
		become := func(client string) { mu.Lock(); defer mu.Unlock(); subject = client }
		c := newAgent(t, transport(func() *http.Response { return answerOK(answer()) }))
		r := token.Ask("a", "x")
		r.Identity.Spec = v1.AzureIdentitySpec{ClientID: ownClient, ResourceID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"}

		ahead := r
		ahead.Caller = token.Background
		for range 50 {
			for _, r := range []token.Request{ahead, r} {
				if got, _, err := c.Get(t.Context(), r); got != nil || sourcetest.Failure(t, err).Reason != reason.OtherIdentity {
					t.Fatalf("got %v, %v", got, err)
				}
			}
			token.Pass(20 * time.Millisecond)
		}
		if count() != 1 || c.ObjectID(r) != "" || token.Held(c) != 0 {
			t.Errorf("%d calls in a second, object ID %q, %d tokens", count(), c.ObjectID(r), token.Held(c))
		}

		become(ownClient) // the spec or Azure was corrected
		token.Pass(time.Minute)
		first, _, err := c.Get(t.Context(), r)
		if err != nil || c.ObjectID(r) != "object of "+ownClient {
			t.Fatalf("object ID %q, %v", c.ObjectID(r), err)
		}

		become(victimClient) // while the token is in use and refreshed
		for range 70 {
			token.Pass(time.Minute)
			got, _, err := c.Get(t.Context(), r)
			switch {
			case token.Valid(first) && (err != nil || got != first):
				t.Fatalf("the valid token is not served: %v", err)
			case !token.Valid(first) && (got != nil || sourcetest.Failure(t, err).Reason != reason.OtherIdentity):
				t.Fatalf("got %v, %v", got, err)
			}
			if c.ObjectID(r) == "object of "+victimClient {
				t.Fatal("another identity's object ID was learned")
			}
		}
	})
}

// transport answers every request.
type transport func() *http.Response

// RoundTrip is http.RoundTripper.
func (f transport) RoundTrip(*http.Request) (*http.Response, error) { return f(), nil }

func answerOK(body string) *http.Response { return answer(http.StatusOK, http.Header{}, body) }
