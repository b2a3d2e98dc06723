package measure

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
			if got := Quantile(tt.values, tt.part); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	r := NewReport()
	r.Add("a", "", "s", []float64{0.1, 0.3}).AtMost(0.3, Worst)
	r.Add("b", "", "s", []float64{0.1, 0.4}).AtMost(0.3, Worst)
	r.Add("c", "", "/s", []float64{10, 30, 20}).AtLeast(20, Middle)
	r.Add("d", "", "/s", []float64{10, 30, 20}).AtLeast(21, Middle)
	r.Add("e", "", "", []float64{1})
	var ids []string
	for _, f := range r.Missed() {
		ids = append(ids, f.ID)
	}
	if diff := cmp.Diff([]string{"b", "d"}, ids); diff != "" {
		t.Error(diff)
	}
	if r.Targets() != 4 {
		t.Errorf("%d targets, want 4", r.Targets())
	}
}

func TestPrint(t *testing.T) {
	r := NewReport()
	r.Add("a", "time", "s", []float64{0.1, 0.25}).AtMost(0.3, Worst)
	r.Add("b", "rate", "/s", []float64{1234.5}).AtLeast(25000, Middle)
	r.OtherWork(12)
	for format, want := range map[string][]string{
		"text":     {"time    100 ms  250 ms       250 ms  max ≤ 300 ms  ok      12 %", "rate    1234/s                       ≥ 25000/s     MISSED  12 %", "1 of 2 targets met"},
		"markdown": {"| time | 100 ms | 250 ms |  | 250 ms | max ≤ 300 ms ok |"},
		"json":     {`"otherWork": 12`, `"met": false`, `"target": 25000`},
	} {
		var out strings.Builder
		if err := r.Print(&out, format); err != nil {
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
	if err != nil || got != (Usage{3, 0.5}) {
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
