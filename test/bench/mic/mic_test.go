package mic

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFlags(t *testing.T) {
	for name, args := range map[string][]string{
		"row":    {"-only", "everything"},
		"output": {"-o", "xml"},
		"number": {"-pods", "0"},
		"sizes":  {"-sizes", "5000,2000"},
		"flag":   {"-nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(args, io.Discard); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestWants(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"all", nil, []string{"burst", "steady", "start", "idle", "floor", "failover", "bad", "fleet"}},
		{"and huge", []string{"-huge"}, []string{"burst", "steady", "start", "idle", "floor", "failover", "bad", "fleet", "huge"}},
		{"one", []string{"-only", "huge"}, []string{"huge"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := parse(tt.args, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range new(bench).rows() {
				if o.wants(r.Name) {
					got = append(got, r.Name)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAudit(t *testing.T) {
	const log = `{"stage":"ResponseComplete","verb":"create","objectRef":{"resource":"events"},"responseStatus":{"code":201}}
{"stage":"ResponseComplete","verb":"create","objectRef":{"resource":"events"},"responseStatus":{"code":201}}
{"stage":"ResponseStarted","verb":"create","objectRef":{"resource":"events"}}
{"stage":"ResponseComplete","verb":"patch","objectRef":{"resource":"azureidentities","subresource":"status"},"responseStatus":{"code":200}}
{"stage":"ResponseComplete","verb":"update","objectRef":{"resource":"leases"},"responseStatus":{"code":409}}
`
	got, err := parseAudit([]byte(log))
	if err != nil {
		t.Fatal(err)
	}
	want := writes{"create events": 2, "patch azureidentities/status": 1, "409 for update leases": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.total() != 4 || got.of("leases") != 1 || got.of("azureidentities") != 1 || got.of("azureassignedidentities") != 0 {
		t.Errorf("total %d, %s", got.total(), got)
	}
	if !strings.HasPrefix(got.String(), "2 create events, ") {
		t.Error(got.String())
	}
	if _, err := parseAudit([]byte("{\n")); err == nil {
		t.Error("no error for a broken line")
	}
}

// TestPods: each identity is used on every scale set, and pods are spread evenly over nodes and
// identities.
func TestPods(t *testing.T) {
	for name, tt := range map[string]struct {
		shape
		pods int
	}{
		"start": {shape{nodes: 100, sets: 5, identities: 50}, 2000},
		"huge":  {shape{nodes: 1000, sets: 20, identities: 500}, 20000},
	} {
		t.Run(name, func(t *testing.T) {
			set := map[string]string{}
			for i := range tt.nodes {
				id := tt.providerID(i)
				set[nodeName(i)] = id[:strings.LastIndex(id, "/virtualMachines/")]
			}
			nodes, names, attachments := map[string]int{}, map[string]bool{}, map[string]bool{}
			for n := range tt.pods {
				p := tt.pod(n)
				nodes[p.Spec.NodeName]++
				names[key(p)] = true
				attachments[p.Labels["aadpodidbinding"]+" "+set[p.Spec.NodeName]] = true
			}
			if len(names) != tt.pods || len(nodes) != tt.nodes || len(attachments) != tt.identities*tt.sets {
				t.Errorf("%d names, %d nodes, %d attachments", len(names), len(nodes), len(attachments))
			}
		})
	}
}

func TestARMTime(t *testing.T) {
	for identities, want := range map[int]time.Duration{50: 2 * time.Second, 150: 2 * time.Second, 151: 4 * time.Second, 500: 8 * time.Second} {
		if got := (shape{identities: identities, arm: 2 * time.Second}).armTime(); got != want {
			t.Errorf("%d identities: %s, want %s", identities, got, want)
		}
	}
}

// TestWorld: the emulated Azure has the nodes of the cluster, and not the identities that should be
// missing.
func TestWorld(t *testing.T) {
	doc := shape{nodes: 7, sets: 2, identities: 5, missing: 1, arm: time.Second}.world()
	if len(doc.ScaleSets) != 2 || len(doc.ScaleSets[0].Instances) != 4 || len(doc.ScaleSets[1].Instances) != 3 || len(doc.Identities) != 4 {
		t.Errorf("%d scale sets, %d identities", len(doc.ScaleSets), len(doc.Identities))
	}
	if !doc.Settings.Limits.Enabled {
		t.Error("Azure's limits are off")
	}
}

func TestSeen(t *testing.T) {
	s := &seen{}
	s.clear()
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	send := func(second int, kind, name, state string) {
		var e watchEvent
		e.Type, e.Object.Metadata.Namespace, e.Object.Metadata.Name = kind, "n", name
		e.Object.Spec.PodNamespace, e.Object.Spec.Pod, e.Object.Status.Status = "n", "pod-"+name, state
		s.note(e, began.Add(time.Duration(second)*time.Second))
	}
	send(0, "ADDED", "a", "Created")
	send(1, "MODIFIED", "a", assignedState)
	send(2, "MODIFIED", "a", assignedState) // sent a second time
	send(3, "ADDED", "b", assignedState)
	if s.now != 2 || len(s.objects) != 2 || !s.last().Equal(began.Add(3*time.Second)) {
		t.Errorf("%d assigned, last %s", s.now, s.last())
	}
	if at, err := s.pod(t.Context(), "n/pod-a"); err != nil || !at.Equal(began.Add(time.Second)) {
		t.Errorf("a at %s, %v", at, err)
	}
	send(4, "DELETED", "a", assignedState)
	if s.now != 1 || len(s.objects) != 1 {
		t.Errorf("%d assigned, %d objects", s.now, len(s.objects))
	}
	s.failed = errors.New("ended")
	if err := s.all(t.Context(), 2, func(int) {}); err == nil {
		t.Error("waits although the watch has ended")
	}
}

func TestSizes(t *testing.T) {
	got := sizes([]update{{"vmss-0", 3, false}, {"vmss-1", 15, true}})
	if got != "vmss-0 +3, vmss-1 +15 or more" {
		t.Error(got)
	}
}
