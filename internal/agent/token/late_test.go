package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// thrifty is a source with a cache of its own, as the metadata service has: it
// gives the same token until shortly before its end.
type thrifty struct {
	fakeSource
	keeps time.Duration // until so long before the end
	hangs bool
	end   time.Time
}

func (s *thrifty) Token(ctx context.Context, r Request) (*Token, error) {
	if s.hangs {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	got, err := s.fakeSource.Token(ctx, r)
	if time.Until(s.end) <= s.keeps {
		s.end = time.Now().Add(s.life)
	}
	got.ExpiresOn = s.end
	return got, err
}

// TestNewestToken: with under five minutes left a token goes out only while the
// source has no other; when it has one, that is found within a minute.
func TestNewestToken(t *testing.T) {
	for _, keeps := range []time.Duration{10 * time.Minute, 4 * time.Minute, 90 * time.Second} {
		t.Run(keeps.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &thrifty{fakeSource: fakeSource{life: 2 * time.Hour}, keeps: keeps}
				c := newTestCache(t, s)
				began := time.Now()
				for time.Since(began) < 7*time.Hour {
					got, _, err := c.Get(t.Context(), ask("a", "x"))
					if err != nil {
						t.Fatal(err)
					}
					if left := time.Until(got.ExpiresOn); left < min(5*time.Minute, keeps-time.Minute-time.Second) {
						t.Fatalf("%v left, and a newer one could be had at %v", left, keeps)
					}
					pass(3 * time.Second)
				}
				if n := s.count(); n > 4*12 {
					t.Errorf("%d calls for four tokens", n)
				}
			})
		})
	}
}

// TestNewestWhileIll: it hangs when it is asked every minute for a newer token.
func TestNewestWhileIll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &thrifty{fakeSource: fakeSource{life: time.Hour}, keeps: 10 * time.Second}
		c := newTestCache(t, s)
		s.end = time.Now().Add(time.Hour)
		for began := time.Now(); time.Since(began) < 57*time.Minute; pass(10 * time.Second) {
			if _, _, err := c.Get(t.Context(), ask("a", "x")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait() // for a refresh under way
		s.hangs = true
		for began := time.Now(); time.Since(began) < 2*time.Minute; pass(20 * time.Millisecond) {
			at := time.Now()
			if _, _, err := c.Get(t.Context(), ask("a", "x")); err != nil || time.Since(at) > 0 {
				t.Fatalf("%v, after %v", err, time.Since(at))
			}
		}
	})
}
