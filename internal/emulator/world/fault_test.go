package world_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/world"
)

func TestFaultMatch(t *testing.T) {
	const path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/n"
	tests := []struct {
		name  string
		fault world.Fault
		want  bool
	}{
		{"everything", world.Fault{}, true},
		{"surface", world.Fault{Surface: "arm"}, true},
		{"other surface", world.Fault{Surface: "imds"}, false},
		{"method in any case", world.Fault{Method: "patch"}, true},
		{"other method", world.Fault{Method: "GET"}, false},
		{"pattern", world.Fault{Path: "*/virtualmachinescalesets/*"}, true},
		{"pattern of the whole", world.Fault{Path: "*/virtualmachinescalesets"}, false},
		{"two stars", world.Fault{Path: "/subscriptions/*/providers/*/n"}, true},
		{"literal", world.Fault{Path: path}, true},
		{"star at the end", world.Fault{Path: path + "*"}, true},
		{"query", world.Fault{Query: "*client_id=one&*"}, true},
		{"other query", world.Fault{Query: "*client_id=two&*"}, false},
		{"overlap", world.Fault{Path: "/subscriptions/s*/s/resourceGroups*"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w, _ := newWorld(t, nil)
			test.fault.Name, test.fault.Status = "f", 500
			if err := w.SetFault(test.fault); err != nil {
				t.Fatal(err)
			}
			if _, _, got := w.TakeFault("arm", "PATCH", path, "a=1&Client_ID=One&b=2"); got != test.want {
				t.Errorf("hit %v", got)
			}
		})
	}
}

func TestFaultCount(t *testing.T) {
	w, _ := newWorld(t, nil)
	if err := w.SetFault(world.Fault{Name: "f", Status: 500, Skip: 1, Count: 2}); err != nil {
		t.Fatal(err)
	}
	var got []bool
	for range 5 {
		_, _, hit := w.TakeFault("arm", "GET", "/", "")
		got = append(got, hit)
	}
	if diff := cmp.Diff([]bool{false, true, true, false, false}, got); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
	if hits := w.Faults()[0].Hits; hits != 2 {
		t.Errorf("%d hits listed", hits)
	}
}

func TestFaultProbability(t *testing.T) {
	w, _ := newWorld(t, nil)
	if err := w.SetFault(world.Fault{Name: "f", Status: 500, Probability: 0.25}); err != nil {
		t.Fatal(err)
	}
	hits := 0
	for range 1000 {
		if _, _, hit := w.TakeFault("arm", "GET", "/", ""); hit {
			hits++
		}
	}
	if hits < 200 || hits > 300 { // the same in every run because the source is seeded
		t.Errorf("%d hits of 1000", hits)
	}
}

func TestFaultRemove(t *testing.T) {
	w, _ := newWorld(t, nil)
	if err := w.SetFault(world.Fault{Name: "f", Hang: true}); err != nil {
		t.Fatal(err)
	}
	_, gone, _ := w.TakeFault("arm", "GET", "/", "")
	if !w.RemoveFault("f") || w.RemoveFault("f") {
		t.Error("it was there once")
	}
	<-gone
}

func TestBadFaults(t *testing.T) {
	w, _ := newWorld(t, nil)
	for name, fault := range map[string]world.Fault{
		"no name":         {Status: 500},
		"does nothing":    {Name: "f"},
		"unknown surface": {Name: "f", Surface: "azure", Status: 500},
		"odd status":      {Name: "f", Status: 42},
		"probability":     {Name: "f", Status: 500, Probability: 2},
		"negative count":  {Name: "f", Status: 500, Count: -1},
	} {
		if err := w.SetFault(fault); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
