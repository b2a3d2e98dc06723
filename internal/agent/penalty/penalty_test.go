package penalty

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestNamespace: pods of one namespace that each stay below the rate of a pod are delayed together.
// Other namespaces are not, nor is a pod whose namespace is not known.
func TestNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pods = 4 * namespaceShare
		p := New[netip.Addr]()
		address := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprint("10.9.1.", i)) }
		var longest time.Duration
		for range 100 { // 40 s, at the rate of a pod
			<-time.After(400 * time.Millisecond)
			for pod := range pods {
				for range 160 * Rate / 400 {
					longest = max(longest, p.Add(address(pod), "hostile"))
				}
			}
		}
		if longest < 4*time.Second {
			t.Errorf("%d pods of one namespace were delayed by %v at most", pods, longest)
		}
		for pod := range pods {
			if p.Blocked(address(pod)) {
				t.Error("a pod that keeps to its rate is blocked")
			}
		}
		if delay := p.Add(address(200), "shop"); delay != 0 {
			t.Errorf("the neighbor is delayed by %v", delay)
		}
		if delay := p.Add(address(201), ""); delay != 0 {
			t.Errorf("an unknown pod is delayed by %v", delay)
		}
		<-time.After(time.Minute)
		if delay := p.Add(address(0), "hostile"); delay != 0 {
			t.Errorf("delayed by %v after a minute", delay)
		}
		if n := len(p.sources.byKey) + len(p.namespaces.byKey); n != 2 {
			t.Errorf("%d scores, want 2", n)
		}
	})
}

// TestAddress: beyond its burst an address is delayed, and it is blocked when it goes on.
func TestAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New[netip.Addr]()
		bad, good := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
		for i := range Burst {
			if delay := p.Add(bad, ""); delay != 0 {
				t.Fatalf("request %d is delayed by %v", i, delay)
			}
		}
		if delay := p.Add(bad, "") + p.Add(bad, ""); delay <= 0 || delay > time.Second {
			t.Errorf("the next two are delayed by %v", delay)
		}
		if delay := p.Add(good, ""); delay != 0 {
			t.Errorf("the neighbor is delayed by %v", delay)
		}
		for range blockAt {
			p.Add(bad, "")
		}
		if !p.Blocked(bad) || p.Blocked(good) {
			t.Errorf("blocked: %v, %v; want true, false", p.Blocked(bad), p.Blocked(good))
		}
		<-time.After(time.Hour)
		if delay := p.Add(good, ""); delay != 0 || len(p.sources.byKey) != 1 || p.Blocked(bad) {
			t.Errorf("after an hour: delayed by %v, %d scores", delay, len(p.sources.byKey))
		}
	})
}
