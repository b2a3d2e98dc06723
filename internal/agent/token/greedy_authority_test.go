package token

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// largeSource returns tokens of a size.
type largeSource struct {
	fakeSource
	bytes int
}

func (s *largeSource) Token(ctx context.Context, r Request) (*Token, error) {
	t, err := s.fakeSource.Token(ctx, r)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		t.Fields["padding"] = json.RawMessage(strings.Repeat("x", s.bytes))
	}
	return t, err
}

// TestLargeTokens checks that a large token counts as several.
func TestLargeTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &largeSource{fakeSource: fakeSource{life: time.Hour}, bytes: unit} // two units each
		c := newTestCache(t, s)
		for i := range 3 {
			mustGet(t, c, ask("a", fmt.Sprint(i)), fmt.Sprint("token ", i+1), Miss)
			pass(time.Second)
		}
		if tokens, units, _ := tally(c); tokens != 2 || units != 4 {
			t.Errorf("%d tokens, %d units of one identity; it may have 4", tokens, units)
		}
		for i := range 6 {
			mustGet(t, c, ask(fmt.Sprint("b", i), "x"), fmt.Sprint("token ", i+4), Miss)
			pass(time.Second)
		}
		if tokens, units, _ := tally(c); tokens != 4 || units != 8 {
			t.Errorf("%d tokens, %d units in all; there may be 8", tokens, units)
		}
		s.set(func(f *fakeSource) { s.bytes = 3 * unit })
		pass(time.Hour) // refreshed, or gone
		if _, units, byID := tally(c); units > 8 || units != byID {
			t.Errorf("%d units, %d by identity, after tokens grew", units, byID)
		}
	})
}

func tally(c *Cache) (tokens, units, byIdentity int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.perID {
		byIdentity += n
	}
	return len(c.entries), c.units, byIdentity
}
