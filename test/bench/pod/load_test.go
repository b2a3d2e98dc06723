package main

import "testing"

func TestQuantile(t *testing.T) {
	g := &generator{}
	for i := range 100 {
		g.took[i]++
		g.result.Requests++
	}
	for part, want := range map[float64]int{0.5: 500, 0.99: 990, 1: 1000} {
		if got := g.quantile(part); got != want {
			t.Errorf("quantile %v is %d µs, want %d", part, got, want)
		}
	}
}
