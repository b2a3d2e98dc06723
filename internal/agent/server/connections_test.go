package server

import (
	"net/netip"
	"testing"
	"time"
)

func TestBrake(t *testing.T) {
	b := newBrake()
	bad, good := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	for i := range badBurst {
		if wait := b.count(bad); wait != 0 {
			t.Fatalf("request %d waits for %v", i, wait)
		}
	}
	if wait := b.count(bad) + b.count(bad); wait <= 0 || wait > time.Second {
		t.Errorf("the next two wait for %v", wait)
	}
	if wait := b.count(good); wait != 0 {
		t.Errorf("the neighbour waits for %v", wait)
	}
	for range badMost {
		b.count(bad)
	}
	if !b.locked(bad) || b.locked(good) {
		t.Errorf("locked: %v, %v; want true, false", b.locked(bad), b.locked(good))
	}
	// What is atoned for is forgotten.
	b.sins[bad].at = time.Now().Add(-time.Hour)
	b.purge = time.Time{}
	if wait := b.count(good); wait != 0 || len(b.sins) != 1 || b.locked(bad) {
		t.Errorf("after an hour: wait %v, %d addresses remembered", wait, len(b.sins))
	}
}
