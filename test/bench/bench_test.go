package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[99-i] = float64(i + 1)
	}
	tests := []struct {
		name   string
		values []float64
		part   float64
		want   float64
	}{
		{"one", []float64{7}, 0.99, 7},
		{"least", hundred, 0, 1},
		{"p50", hundred, 0.5, 50},
		{"p99", hundred, 0.99, 99},
		{"worst", hundred, 1, 100},
		{"p99 of few", []float64{3, 1, 2}, 0.99, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := quantile(tt.values, tt.part); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	r := newReport()
	r.add("a", "", "s", []float64{0.1, 0.3}).atMost(0.3, worst)
	r.add("b", "", "s", []float64{0.1, 0.4}).atMost(0.3, worst)
	r.add("c", "", "/s", []float64{10, 30, 20}).atLeast(20, middle)
	r.add("d", "", "/s", []float64{10, 30, 20}).atLeast(21, middle)
	r.add("e", "", "", []float64{1})
	var ids []string
	for _, f := range r.missed() {
		ids = append(ids, f.ID)
	}
	if diff := cmp.Diff([]string{"b", "d"}, ids); diff != "" {
		t.Error(diff)
	}
	if r.targets() != 4 {
		t.Errorf("%d targets, want 4", r.targets())
	}
}

func TestPrint(t *testing.T) {
	r := newReport()
	r.add("a", "time", "s", []float64{0.1, 0.25}).atMost(0.3, worst)
	r.add("b", "rate", "/s", []float64{1234.5}).atLeast(25000, middle)
	r.other(12)
	for format, want := range map[string][]string{
		"text":     {"time    100 ms  250 ms       250 ms  max ≤ 300 ms  ok      12 %", "rate    1234/s                       ≥ 25000/s     MISSED  12 %", "1 of 2 targets met"},
		"markdown": {"| time | 100 ms | 250 ms |  | 250 ms | max ≤ 300 ms ok |"},
		"json":     {`"otherWork": 12`, `"met": false`, `"target": 25000`},
	} {
		var out strings.Builder
		if err := r.print(&out, format); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s lacks %q:\n%s", format, w, out.String())
			}
		}
	}
}

func TestUsage(t *testing.T) {
	const stat = "7 (a ) b) S 1 7 7 0 -1 4194560 2 0 0 0 250 50 0 0 20 0 9 0 4711 12 3 18446744073709551615 1 1"
	got, err := parseUsage(stat)
	if err != nil || got != (usage{3, 0.5}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseUsage("7 (a) S 1"); err == nil {
		t.Error("no error for a short line")
	}
}

func TestStatusField(t *testing.T) {
	const status = "Name:\tnmi\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n"
	if got, err := statusField(status, "VmRSS:"); err != nil || got != 1024 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := statusField(status, "RssAnon:"); err == nil {
		t.Error("no error for a field that is not there")
	}
}

func TestRounds(t *testing.T) {
	const good = `{"target":"nmi","began":"2026-01-01T00:00:00Z","ended":"2026-01-01T00:00:04Z","requests":100}` + "\n"
	list, err := parseRounds([]byte(good))
	if err != nil || len(list) != 1 || list[0].rate() != 25 {
		t.Errorf("got %+v, %v", list, err)
	}
	for name, text := range map[string]string{
		"failed": `{"target":"nmi","requests":9,"failed":1,"text":"HTTP/1.1 500"}`,
		"broken": "pod: connect: connection refused",
	} {
		if _, err := parseRounds([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestTake uses the samples within the round only.
func TestTake(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	r := round{Began: began, Ended: at(4), Requests: 4000, CPU: 0.04}
	var g target
	g.take(r, []memory{
		{at: at(-1), used: usage{1, 1}}, {at: at(1), used: usage{2, 1}}, {at: at(3), used: usage{2.1, 1.04}}, {at: at(5), used: usage{9, 9}},
	})
	if len(g.memory) != 2 || len(g.cost) != 1 || g.generator[0] != 1e-5 {
		t.Fatalf("got %+v", g)
	}
	// 0.1 s and 0.04 s over the 2000 requests of two seconds.
	if got := []float64{g.cost[0], g.kernel[0]}; got[0] < 49e-6 || got[0] > 51e-6 || got[1] < 19e-6 || got[1] > 21e-6 {
		t.Errorf("cost %v", got)
	}
}

func TestFromKnown(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	tests := []struct {
		name                string
		addressed, answered int
		want                time.Duration
	}{
		{"address known first", -100, 30, 30 * time.Millisecond},
		{"address known later", 500, 510, 10 * time.Millisecond},
		{"agent heard first", 500, 499, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := asked{podSeen: podSeen{addressed: at(tt.addressed), outcome: outcome{Began: began, Answered: at(tt.answered)}}}
			if got := fromKnown(p); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSaid(t *testing.T) {
	pod := func(message string) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error", Message: message}},
		}}}}
	}
	if got := said(pod(`{"status":200,"bytes":7}`)); got.Status != 200 || got.Bytes != 7 || got.Text != "" {
		t.Errorf("got %+v", got)
	}
	if got := said(pod("panic")); !strings.Contains(got.Text, "exit code 2") {
		t.Errorf("got %+v", got)
	}
}

func TestFlags(t *testing.T) {
	for name, args := range map[string][]string{
		"part":   {"-only", "everything"},
		"output": {"-o", "xml"},
		"number": {"-cold", "0"},
		"many":   {"-cold", "40", "-burst", "40"},
		"flag":   {"-nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(args, io.Discard); err == nil {
				t.Error("no error")
			}
		})
	}
	o, err := parse([]string{"-only", "load"}, io.Discard)
	if err != nil || !o.wants("load") || !o.wants("cold") || o.wants("scale") {
		t.Errorf("%+v, %v: load needs cold and nothing else", o, err)
	}
}

// TestFakePods puts the same number of pods on every node and into every namespace.
func TestFakePods(t *testing.T) {
	nodes, spaces := map[string]int{}, map[string]int{}
	for i := range 2000 {
		p := fakePod(i)
		nodes[p.Spec.NodeName]++
		spaces[p.Namespace+"/"+p.Name]++
	}
	if len(nodes) != scaleSets*nodesEach || len(spaces) != 2000 {
		t.Errorf("%d nodes, %d names", len(nodes), len(spaces))
	}
	for node, n := range nodes {
		if n != 2000/(scaleSets*nodesEach) {
			t.Errorf("%d pods on %s", n, node)
		}
	}
}

func TestGroupCPU(t *testing.T) {
	if got := groupCPU([]string{t.TempDir()}); got != 0 {
		t.Errorf("got %v", got)
	}
}
