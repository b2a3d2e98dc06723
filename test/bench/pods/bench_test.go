package pods

import (
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/test/bench/measure"
)

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

// TestTake: only the samples within the round are used.
func TestTake(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	r := round{Began: began, Ended: at(4), Requests: 4000, CPU: 0.04}
	var g target
	g.take(r, []measure.Memory{
		{At: at(-1), Used: measure.Usage{All: 1, Kernel: 1}}, {At: at(1), Used: measure.Usage{All: 2, Kernel: 1}}, {At: at(3), Used: measure.Usage{All: 2.1, Kernel: 1.04}}, {At: at(5), Used: measure.Usage{All: 9, Kernel: 9}},
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
