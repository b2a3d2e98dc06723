package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// cachingSource has a cache of its own, like the metadata service: it returns the same token until
// shortly before its expiry.
type cachingSource struct {
	fakeSource
	keeps time.Duration // until so long before the expiry
	hangs bool
	end   time.Time
}

func (s *cachingSource) Token(ctx context.Context, r Request) (*Token, error) {
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

// TestNewestToken checks that a token with less than five minutes left is served only while the
// source has no newer one, and that a newer one is found within a minute.
func TestNewestToken(t *testing.T) {
	for _, keeps := range []time.Duration{10 * time.Minute, 4 * time.Minute, 90 * time.Second} {
		t.Run(keeps.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &cachingSource{fakeSource: fakeSource{life: 2 * time.Hour}, keeps: keeps}
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

// TestNewestInOutage lets the source hang while it is asked every minute for a newer token.
func TestNewestInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &cachingSource{fakeSource: fakeSource{life: time.Hour}, keeps: 10 * time.Second}
		c := newTestCache(t, s)
		s.end = time.Now().Add(time.Hour)
		for began := time.Now(); time.Since(began) < 57*time.Minute; pass(10 * time.Second) {
			if _, _, err := c.Get(t.Context(), ask("a", "x")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait() // for a refresh in flight
		s.hangs = true
		for began := time.Now(); time.Since(began) < 2*time.Minute; pass(20 * time.Millisecond) {
			at := time.Now()
			if _, _, err := c.Get(t.Context(), ask("a", "x")); err != nil || time.Since(at) > 0 {
				t.Fatalf("%v, after %v", err, time.Since(at))
			}
		}
	})
}
