package source

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
)

func TestParseReplyTimes(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	at := func(s int64) time.Time { return time.Unix(1_700_000_000+s, 0) }
	jwt := "h." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1700000900,"nbf":1699999000}`)) + ".s"
	tests := []struct {
		name, body         string
		expires, notBefore time.Time
		refused            bool
	}{
		{name: "strings", body: `{"access_token":"x","expires_on":"1700000600","not_before":"1699999999"}`, expires: at(600), notBefore: at(-1)},
		{name: "numbers", body: `{"access_token":"x","expires_on":1700000600.0}`, expires: at(600), notBefore: now},
		{name: "only expires_in", body: `{"access_token":"x","expires_in":"300"}`, expires: at(300), notBefore: now},
		{name: "only the token", body: `{"access_token":"` + jwt + `"}`, expires: at(900), notBefore: at(-1000)},
		{name: "a date", body: `{"access_token":"x","expires_on":"11/21/2026 3:04:05 PM +00:00","expires_in":300}`, expires: at(300), notBefore: now},
		{name: "none", body: `{"access_token":"x"}`, refused: true},
		{name: "absurd", body: `{"access_token":"x","expires_on":"1e300","expires_in":"-5"}`, refused: true},
		{name: "past", body: `{"access_token":"x","expires_on":"1699999999"}`, refused: true},
		{name: "a list", body: `[]`, refused: true},
		{name: "token is a number", body: `{"access_token":1,"expires_in":"300"}`, refused: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseReply([]byte(tt.body), now)
			if (err != nil) != tt.refused {
				t.Fatalf("got %v", err)
			}
			if err == nil && (!got.ExpiresOn.Equal(tt.expires) || !got.NotBefore.Equal(tt.notBefore)) {
				t.Errorf("got %v from %v", got.ExpiresOn, got.NotBefore)
			}
			if err != nil && strings.Contains(err.Error(), "access_token\":") {
				t.Errorf("the error quotes the reply: %v", err)
			}
		})
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte(`{"access_token":"h.e30.s","expires_on":"1700000600"}`))
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ParseReply(body, now)
		if err == nil && !got.ExpiresOn.After(now) {
			t.Fatalf("%q: accepted until %v", body, got.ExpiresOn)
		}
	})
}

func TestClientIDShortened(t *testing.T) {
	const id = "0A1b2c3d-0000-1111-2222-333344445555"
	if got := Shorten("Application '"+strings.ToLower(id)+"' was not found", id); got != "Application '0A1b2c3d…' was not found" {
		t.Error(got)
	}
}

// TestAcquireWanted checks that a background request gets one turn, whenever a caller comes to
// wait.
func TestAcquireWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, late := range []time.Duration{0, time.Second, 2 * time.Second} {
			l := &queue{background: 1500 * time.Millisecond}
			wanted := make(chan string, 1)
			r := token.Request{Caller: token.Background, Wanted: wanted}
			go func() { <-time.After(late); wanted <- "pod" }()
			release, err := (&Calls{Limiter: l}).Acquire(t.Context(), &r)
			if err != nil {
				t.Fatal(err)
			}
			release()
			if want := min(late, 1500*time.Millisecond); l.granted != 1 || l.took != want {
				t.Errorf("wanted after %v: granted %d times, after %v", late, l.granted, l.took)
			}
			if own := late < 1500*time.Millisecond; own != (r.Caller == "pod") || own != (r.Wanted == nil) {
				t.Errorf("wanted after %v: the caller is %q", late, r.Caller)
			}
			<-time.After(time.Hour)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		r := token.Request{Caller: token.Background, Wanted: make(chan string, 1)}
		if _, err := (&Calls{Limiter: &queue{background: time.Second}}).Acquire(ended, &r); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// queue lets pods begin at once, and background requests after a while.
type queue struct {
	background time.Duration
	granted    int
	took       time.Duration
}

func (q *queue) Acquire(ctx context.Context, caller string) (func(), error) {
	began := time.Now()
	if caller == token.Background && !sleep(ctx, q.background) {
		q.took += time.Since(began)
		return nil, context.Cause(ctx)
	}
	q.took += time.Since(began)
	q.granted++
	return func() {}, nil
}

func (q *queue) StayAway(time.Duration) {}
