package demo

import (
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/sandbox"
)

func at(ms int) time.Time { return time.Date(2026, 1, 2, 3, 4, 5, ms*1e6, time.UTC) }

func happy() *story {
	s := &story{}
	s.note(scheduled, at(0), "node-1")
	s.note(created, at(20), "")
	s.note(patched, at(60), "")
	s.note(assigned, at(2070), "")
	s.bound = []event{
		{Event: "started", Time: at(700)},
		{Event: "token", Time: at(2100), TookMS: 1400, Claims: map[string]any{"aud": "https://arm", "exp": float64(1767326645)}},
		{Event: "arm", Time: at(2110), Text: "scale set nodes"},
	}
	s.unbound = []event{{Event: "refused", TookMS: 8000, Text: "404"}}
	return s
}

func TestTimeline(t *testing.T) {
	var b strings.Builder
	if err := happy().print(&b); err != nil {
		t.Fatal(err)
	}
	rest := b.String()
	for _, want := range []string{
		"0.00  pod \"bound\" is scheduled to node-1", "0.02  MIC has written", "0.06  MIC has asked Azure",
		"0.70  the program in the pod asks", "2.07  Azure is done", "2.10  it has the token", "2.11  Azure Resource Manager takes it",
		"aud", "exp        2026-01-02T04:04:05Z", "was refused after 8000 ms", "2.10 s, of which Azure took 2.01 s",
	} {
		i := strings.Index(rest, want)
		if i < 0 {
			t.Fatalf("%q is not there, or not in its place:\n%s", want, b.String())
		}
		rest = rest[i:]
	}
}

// Only the first time counts, since an object is seen many times.
func TestNote(t *testing.T) {
	s := &story{}
	s.note(scheduled, at(1), "node-0")
	s.note(scheduled, at(2), "node-0")
	if !s.moments[scheduled].Equal(at(1)) {
		t.Errorf("noted %s", s.moments[scheduled])
	}
}

func TestVerdict(t *testing.T) {
	tests := []struct {
		name   string
		change func(*story)
		want   string
	}{
		{"happy", func(*story) {}, ""},
		{"no token", func(s *story) { s.bound = []event{{Event: "refused", Text: "400"}} }, "got no token: 400"},
		{"silent pod", func(s *story) { s.bound = nil }, "it said nothing"},
		{"ARM refuses", func(s *story) { s.bound = s.bound[:2] }, "did not take the token"},
		{"token for the other", func(s *story) { s.unbound = s.bound }, "without a binding got a token"},
		{"other not refused", func(s *story) { s.unbound = []event{{Event: "broken", Text: "x"}} }, "was not refused: x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := happy()
			tt.change(s)
			err := s.verdict()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestParseEvents(t *testing.T) {
	got, err := parseEvents([]byte("{\"event\":\"started\"}\n{\"event\":\"token\",\"tookMS\":3}\n"))
	if err != nil || len(got) != 2 || got[1].TookMS != 3 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseEvents([]byte("panic: oh\n")); err == nil || !strings.Contains(err.Error(), "panic: oh") {
		t.Errorf("a line that is no event: %v", err)
	}
}

func TestManifest(t *testing.T) {
	text, err := manifest(facts{
		Identity: sandbox.Identities()[0], CA: "-----BEGIN\nx\n-----END\n", ARM: "https://10.200.0.2", Image: "demo:dev",
		ScaleSetID: sandbox.ScaleSetID(), Pods: []pod{{boundPod, "demo"}, {unboundPod, "nobody"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		kinds = append(kinds, object.Kind)
		if object.Kind == "ConfigMap" && strings.TrimSpace(object.Data["ca.crt"]) != "-----BEGIN\nx\n-----END" {
			t.Errorf("certificate is %q", object.Data["ca.crt"])
		}
	}
	if got := strings.Join(kinds, " "); got != "Namespace AzureIdentity AzureIdentityBinding ConfigMap Pod Pod" {
		t.Errorf("objects: %s", got)
	}
}
