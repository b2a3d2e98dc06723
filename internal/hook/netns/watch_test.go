package netns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// events records what Watch calls, in order.
type events chan string

func (e events) appeared(path string) { e <- "+" + filepath.Base(path) }
func (e events) vanished(path string) { e <- "-" + filepath.Base(path) }

func (e events) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-e:
		if got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	case <-t.Context().Done():
		t.Fatalf("nothing, want %s", want)
	}
}

func create(t *testing.T, folder, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	folder := t.TempDir()
	create(t, folder, "a")
	seen, ended := make(events, 10), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- Watch(ctx, folder, seen.appeared, seen.vanished) }()
	seen.want(t, "+a")
	create(t, folder, "b")
	seen.want(t, "+b")
	if err := os.Remove(filepath.Join(folder, "a")); err != nil {
		t.Fatal(err)
	}
	seen.want(t, "-a")
	if err := os.Rename(filepath.Join(folder, "b"), filepath.Join(folder, "c")); err != nil {
		t.Fatal(err)
	}
	seen.want(t, "-b")
	seen.want(t, "+c")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(seen) > 0 {
		t.Errorf("%s at the end", <-seen)
	}
}

// TestFolderGone: a folder that is missing or removed is an error, so that the caller tries again.
func TestFolderGone(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "netns")
	seen := make(events, 10)
	if err := Watch(t.Context(), folder, seen.appeared, seen.vanished); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	create(t, folder, "a")
	ended := make(chan error, 1)
	go func() { ended <- Watch(t.Context(), folder, seen.appeared, seen.vanished) }()
	seen.want(t, "+a")
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errFolderGone) {
		t.Errorf("removed: %v", err)
	}
}
