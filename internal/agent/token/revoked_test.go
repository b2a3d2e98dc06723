package token_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
)

func sumOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func TestRevokedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		plain := token.Ask("a", "x")
		token.MustGet(t, c, plain, `"token-1"`, token.Miss)
		revoked := plain
		revoked.Revoked = sumOf("some other token")
		token.MustGet(t, c, revoked, `"token-1"`, token.Hit)
		revoked.Revoked = strings.ToUpper(sumOf("token-1"))
		token.MustGet(t, c, revoked, `"token-2"`, token.Miss)
		token.MustGet(t, c, revoked, `"token-2"`, token.Hit) // it is no longer the one held
		token.MustGet(t, c, plain, `"token-2"`, token.Hit)
		if s.seen()[0].revoked != "" || s.seen()[1].revoked != revoked.Revoked {
			t.Errorf("the service got %+v", s.seen())
		}
		// A later refresh is not affected.
		token.Pass(20 * time.Hour)
		if n := s.count(); n != 3 || s.seen()[2].revoked != "" {
			t.Errorf("calls %+v", s.seen())
		}
	})
}

// TestRevokedIsBounded checks that a client that reports each token as revoked gets a new one at
// most twice a minute.
func TestRevokedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		r := token.Ask("a", "x")
		began := time.Now()
		for time.Since(began) < 2*time.Minute {
			got, _, err := c.Get(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			r.Revoked = sumOf(strings.Trim(string(got.Body.Append(nil, time.Now())), `"`))
			token.Pass(50 * time.Millisecond)
		}
		if n := s.count(); n < 4 || n > 6 {
			t.Errorf("%d calls in two minutes", n)
		}
	})
}

func TestRevokedInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		r := token.Ask("a", "x")
		token.MustGet(t, c, r, `"token-1"`, token.Miss)
		s.setFault(refuse(500))
		other := r
		r.Revoked = sumOf("token-1")
		done := make(chan struct{})
		go func() {
			defer close(done)
			token.MustGet(t, c, r, `"token-1"`, token.Stale) // there is no better one
		}()
		synctest.Wait()
		token.MustGet(t, c, other, `"token-1"`, token.Hit) // others do not wait
		<-done
	})
}
