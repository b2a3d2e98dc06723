package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// jsonBody is a reply that can be read again.
type jsonBody string

func (b jsonBody) Append(dst []byte, _ time.Time) []byte {
	return fmt.Appendf(dst, `{"n":%s}`, string(b))
}

// TestCarry: the tokens in use serve the next agent's pods while the source is down. Others, and
// those of an identity that has changed, do not.
func TestCarry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		render := func(t *Token, _ Request) (Body, error) { return jsonBody(t.Fields["n"]), nil }
		s := &fakeSource{life: time.Hour}
		older, newer := newTestCache(t, s), newTestCache(t, s)
		older.cfg.Render, newer.cfg.Render = render, render
		get := func(c *Cache, id string) (Outcome, error) {
			_, outcome, err := c.Get(t.Context(), ask(id, "x"))
			return outcome, err
		}
		for _, id := range []string{"a", "b"} {
			if _, err := get(older, id); err != nil {
				t.Fatal(err)
			}
			pass(time.Minute)
		}
		s.set(func(s *fakeSource) { s.err = errors.New("down") })

		carried := older.Carry()
		if len(carried) != 2 || carried[0].Name != "b" || fmt.Sprintf("%v %+v", carried[0], carried[1]) != "[token] [token]" {
			t.Fatalf("carried %d: %v", len(carried), carried)
		}
		for _, from := range carried {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(from.Reply, &fields); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			restored := &Token{Fields: fields, Obtained: now, ExpiresOn: now.Add(50 * time.Minute)}
			if err := newer.Adopt(from, restored); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []string{"a", "b"} {
			if outcome, err := get(newer, id); err != nil || outcome != Hit {
				t.Errorf("%s: %v %v", id, outcome, err)
			}
		}
		edited := ask("a", "x")
		edited.Identity.UID = "another"
		if _, _, err := newer.Get(t.Context(), edited); err == nil {
			t.Error("an identity that was created anew got the earlier one's token")
		}
		if Held(newer) != 2 {
			t.Errorf("%d tokens", Held(newer))
		}
	})
}
