package token

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/reason"
)

// from returns a request for an identity of a namespace.
func from(namespace, name, resource string) Request {
	r := ask(namespace+name, resource)
	r.Identity.Namespace, r.Caller = namespace, namespace+"/pod"
	return r
}

// TestMemoryOfAGreedyNamespace checks that a namespace that fills the cache and the memory of
// failures evicts only its own tokens and failures.
func TestMemoryOfAGreedyNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: 24 * time.Hour}
		c := newTestCache(t, s) // 8 tokens, 4 of one identity
		mustGet(t, c, from("shop", "web", "x"), "token 1", Miss)
		mustGet(t, c, from("shop", "web", "y"), "token 2", Miss)
		for i := range 30 {
			pass(time.Second)
			r := from("hostile", fmt.Sprint("id-", i%10), fmt.Sprint(i))
			if _, _, err := c.Get(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		mustGet(t, c, from("shop", "web", "x"), "token 1", Hit)
		mustGet(t, c, from("shop", "web", "y"), "token 2", Hit)
		if tokens, units, byID := tally(c); tokens != 8 || units != byID || c.perSpace["hostile"] != 6 || c.perSpace["shop"] != 2 {
			t.Errorf("%d tokens, %d units, %d by identity, %v by namespace", tokens, units, byID, c.perSpace)
		}
		// A namespace that holds less than another gets more.
		for i := range 3 {
			if _, _, err := c.Get(t.Context(), from("shop", "api", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		if c.perSpace["hostile"] != 4 || c.perSpace["shop"] != 4 {
			t.Errorf("%v by namespace", c.perSpace)
		}
		s.set(func(f *fakeSource) {
			f.err = &reason.Refusal{Reason: reason.SourceFailed, Relayed: reason.Answer{Status: 400, OAuth: "no"}, Message: "no"}
		})
		refused := from("shop", "bad", "x")
		outcome := func() Outcome {
			_, outcome, err := c.Get(context.Background(), refused)
			if err == nil {
				t.Error("a token")
			}
			return outcome
		}
		outcome()
		for i := range 30 {
			_, _, _ = c.Get(t.Context(), from("hostile", fmt.Sprint("bad-", i%10), fmt.Sprint(i)))
		}
		if got := outcome(); got != Refused {
			t.Errorf("outcome %d: the refusal was forgotten", got)
		}
	})
}
