package token

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// TestKeyFileTurns: files of one namespace that never end take none of the places
// of others.
func TestKeyFileTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParser()
		release, err := p.acquire(t.Context(), "crafted")
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 2 * parseSlots {
			group.Go(func() {
				if _, err := p.parse(t.Context(), "crafted", []byte("x"), ""); !errors.Is(err, errParserBusy) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := p.parse(t.Context(), "other", []byte("x"), ""); err == nil || errors.Is(err, errParserBusy) {
			t.Errorf("of another namespace: %v", err)
		}
		group.Wait()
		release()
		synctest.Wait()
		if len(p.turns) != 0 || len(p.slots) != 0 {
			t.Errorf("%d turns, %d slots left over", len(p.turns), len(p.slots))
		}
	})
}
