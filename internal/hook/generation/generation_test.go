package generation

import (
	"errors"
	"path/filepath"
	"testing"
)

func open(t *testing.T, path string) *Lock {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// wantPublishes checks which of the holders may publish.
func wantPublishes(t *testing.T, when string, want map[*Lock]bool) {
	t.Helper()
	for l, may := range want {
		ran := false
		err := l.Do(func() error { ran = true; return nil })
		if ran != may || may != (err == nil) || !may && !errors.Is(err, ErrNewer) {
			t.Errorf("%s: generation %d publishes: %t, want %t, %v", when, l.mine, ran, may, err)
		}
	}
}

func ready(t *testing.T, l *Lock, is bool) {
	t.Helper()
	if err := l.SetReady(is); err != nil {
		t.Fatal(err)
	}
}

// TestRoll: the older holder publishes until the newer one is ready, and again if that one fails.
func TestRoll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	older := open(t, path)
	wantPublishes(t, "one, not ready", map[*Lock]bool{older: true})
	ready(t, older, true)
	newer := open(t, path)
	wantPublishes(t, "the newer not ready", map[*Lock]bool{older: true, newer: false})
	ready(t, newer, true)
	wantPublishes(t, "both ready", map[*Lock]bool{older: false, newer: true})
	ready(t, newer, false)
	wantPublishes(t, "the newer without an agent", map[*Lock]bool{older: true, newer: false})
	ready(t, newer, true)
	ready(t, older, false)
	ready(t, older, true)
	wantPublishes(t, "the older ready again", map[*Lock]bool{older: false, newer: true})
	_ = newer.Close() // as the kernel does for a process that ends
	wantPublishes(t, "the newer ended", map[*Lock]bool{older: true})
}

// TestError: an error of f is the caller's, and keeps no other holder from publishing.
func TestError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, path), open(t, path)
	broken := errors.New("broken")
	if err := a.Do(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	wantPublishes(t, "after an error", map[*Lock]bool{b: true})
}
