package server

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestBrakeOfANamespace: pods of one namespace that each stay below the rate of a pod are slowed down
// together. Other namespaces are not, nor is a pod whose namespace is not known.
func TestBrakeOfANamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pods = 4 * namespaceShare
		b := newBrake()
		address := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprint("10.9.1.", i)) }
		var worst time.Duration
		for range 100 { // 40 s, at the rate of a pod
			<-time.After(400 * time.Millisecond)
			for pod := range pods {
				for range 160 * badRate / 400 {
					worst = max(worst, b.count(address(pod), "hostile"))
				}
			}
		}
		if worst < 4*time.Second {
			t.Errorf("%d pods of one namespace waited %v at most", pods, worst)
		}
		for pod := range pods {
			if b.locked(address(pod)) {
				t.Error("connections of a pod that keeps to its rate are closed")
			}
		}
		if wait := b.count(address(200), "shop"); wait != 0 {
			t.Errorf("the neighbor waits %v", wait)
		}
		if wait := b.count(address(201), ""); wait != 0 {
			t.Errorf("a pod that is not known waits %v", wait)
		}
		<-time.After(time.Minute)
		if wait := b.count(address(0), "hostile"); wait != 0 {
			t.Errorf("waits %v after a minute", wait)
		}
		if n := len(b.addresses.of) + len(b.namespaces.of); n != 2 {
			t.Errorf("%d scores are kept", n)
		}
	})
}

// TestBrake: beyond its burst an address waits, and is locked out when it goes on.
func TestBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBrake()
		bad, good := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
		for i := range badBurst {
			if wait := b.count(bad, ""); wait != 0 {
				t.Fatalf("request %d waits for %v", i, wait)
			}
		}
		if wait := b.count(bad, "") + b.count(bad, ""); wait <= 0 || wait > time.Second {
			t.Errorf("the next two wait for %v", wait)
		}
		if wait := b.count(good, ""); wait != 0 {
			t.Errorf("the neighbor waits for %v", wait)
		}
		for range badMost {
			b.count(bad, "")
		}
		if !b.locked(bad) || b.locked(good) {
			t.Errorf("locked: %v, %v; want true, false", b.locked(bad), b.locked(good))
		}
		<-time.After(time.Hour)
		if wait := b.count(good, ""); wait != 0 || len(b.addresses.of) != 1 || b.locked(bad) {
			t.Errorf("after an hour: wait %v, %d addresses remembered", wait, len(b.addresses.of))
		}
	})
}
