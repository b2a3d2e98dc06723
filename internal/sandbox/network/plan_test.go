package network

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewPlan(t *testing.T) {
	p, err := NewPlan("ci", 2)
	if err != nil {
		t.Fatal(err)
	}
	type row struct{ Name, Namespace, IP, Pods string }
	var got []row
	for _, n := range p.Nodes {
		got = append(got, row{n.Name, string(n.Namespace), n.IP.String(), n.Pods.String()})
	}
	want := []row{
		{"node-0", "podid-ci-node-0", "10.200.0.10/24", "10.244.0.0/24"},
		{"node-1", "podid-ci-node-1", "10.200.0.11/24", "10.244.1.0/24"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p.Switch != "podid-ci-switch" {
		t.Errorf("switch is %s", p.Switch)
	}
}

func TestPlanIsDisjoint(t *testing.T) {
	p, err := NewPlan("x", MaxNodes)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range p.Nodes {
		if a.IP.Addr() == p.API.Addr() || a.IP.Addr() == p.Azure.Addr() {
			t.Errorf("%s has an address of the switch", a.Name)
		}
		if len(a.Port) > 15 {
			t.Errorf("%s is too long for a device", a.Port)
		}
		for _, b := range p.Nodes[i+1:] {
			if a.IP.Addr() == b.IP.Addr() || a.Pods.Overlaps(b.Pods) || a.Namespace == b.Namespace {
				t.Errorf("%s and %s share something", a.Name, b.Name)
			}
		}
	}
}

func TestPlanBounds(t *testing.T) {
	for _, n := range []int{-1, 0, MaxNodes + 1} {
		if _, err := NewPlan("x", n); err == nil {
			t.Errorf("%d nodes are accepted", n)
		}
	}
}
