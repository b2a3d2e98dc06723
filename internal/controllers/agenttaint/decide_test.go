package agenttaint

import (
	"fmt"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	// Nine nodes with a healthy agent each: three of them may be tainted.
	fleet := func() *record {
		r := newRecord(time.Minute)
		for i := range 9 {
			r.set(fmt.Sprintf("node-%d", i), fmt.Sprintf("nmi-%d", i), true, start)
		}
		return r
	}
	for name, test := range map[string]struct {
		happens func(*record)
		node    string
		now     int
		want    verdict
		left    time.Duration
	}{
		"healthy":             {func(*record) {}, "node-1", 600, leave, 0},
		"never had an agent":  {func(*record) {}, "windows-1", 600, leave, 0},
		"ill for a moment":    {func(r *record) { r.set("node-1", "nmi-1", false, at(10)) }, "node-1", 40, wait, 30 * time.Second},
		"ill for long enough": {func(r *record) { r.set("node-1", "nmi-1", false, at(10)) }, "node-1", 70, taint, 0},
		"ill again counts from there": {func(r *record) {
			r.set("node-1", "nmi-1", false, at(0))
			r.set("node-1", "nmi-1", true, at(50))
			r.set("node-1", "nmi-1", false, at(60))
		}, "node-1", 70, wait, 50 * time.Second},
		"still ill is not a new illness": {func(r *record) {
			r.set("node-1", "nmi-1", false, at(0))
			r.set("node-1", "nmi-1", false, at(50))
		}, "node-1", 70, taint, 0},
		"gone":                              {func(r *record) { r.remove("node-1", "nmi-1", at(0)) }, "node-1", 61, taint, 0},
		"replaced in time":                  {func(r *record) { r.remove("node-1", "nmi-1", at(0)); r.set("node-1", "nmi-1b", true, at(20)) }, "node-1", 61, leave, 0},
		"replaced by one that is not ready": {func(r *record) { r.remove("node-1", "nmi-1", at(0)); r.set("node-1", "nmi-1b", false, at(20)) }, "node-1", 61, taint, 0},
		"two agents, one ready":             {func(r *record) { r.set("node-1", "nmi-1b", false, at(0)) }, "node-1", 61, leave, 0},
		"the node is gone":                  {func(r *record) { r.remove("node-1", "nmi-1", at(0)); r.forget("node-1") }, "node-1", 61, leave, 0},
		"three of nine":                     {ill(3, at(0)), "node-1", 61, taint, 0},
		"four of nine: it is not the nodes": {ill(4, at(0)), "node-1", 61, tooMany, time.Minute},
		"uninstalled": {func(r *record) {
			for i := range 9 {
				r.remove(fmt.Sprintf("node-%d", i), fmt.Sprintf("nmi-%d", i), at(0))
			}
		}, "node-1", 61, leave, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := fleet()
			test.happens(r)
			if got, left := r.judge(test.node, at(test.now)); got != test.want || left != test.left {
				t.Errorf("verdict %d, %v left; want %d, %v", got, left, test.want, test.left)
			}
		})
	}
}

func ill(n int, when time.Time) func(*record) {
	return func(r *record) {
		for i := range n {
			r.set(fmt.Sprintf("node-%d", i), fmt.Sprintf("nmi-%d", i), false, when)
		}
	}
}
