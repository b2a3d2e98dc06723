package token

import (
	"testing"
	"time"
)

// BenchmarkCacheHit measures the request path: a fresh token, requested by many pods at once.
func BenchmarkCacheHit(b *testing.B) {
	c := newTestCache(b, &fakeSource{life: 24 * time.Hour})
	if _, _, err := c.Get(b.Context(), ask("a", "x")); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := ask("a", "x")
		for pb.Next() {
			if t, outcome, err := c.Get(b.Context(), r); err != nil || outcome != Hit || t.OfCluster() != "" {
				b.Error(outcome, err)
				return
			}
		}
	})
}
