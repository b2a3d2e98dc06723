package world_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/world"
)

const small = `
tenants: [{id: 11111111-1111-4111-8111-111111111111}]
subscriptions: [{id: 22222222-2222-4222-8222-222222222222}]
`

func TestParseDefaults(t *testing.T) {
	doc, err := world.Parse([]byte(small + `
scaleSets: [{name: set, resourceGroup: g, instances: [{id: "7"}]}]
settings: {arm: {updateDuration: 40s, imdsDelay: 0.5}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := world.DefaultSettings()
	want.ARM.UpdateDuration, want.ARM.IMDSDelay = world.Duration(40*time.Second), world.Duration(500*time.Millisecond)
	if diff := cmp.Diff(want, doc.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	set := doc.ScaleSets[0]
	if set.SubscriptionID != doc.Subscriptions[0].ID || set.Location != "westeurope" || set.Instances[0].Name != "set_7" {
		t.Errorf("scale set %+v", set)
	}
}

// TestRoundTrip writes the default world and reads it again.
func TestRoundTrip(t *testing.T) {
	want, err := world.Complete(world.Default("s"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := world.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseComplaints(t *testing.T) {
	const vm = "virtualMachines: [{name: a, resourceGroup: g, addresses: [10.0.0.1]}]\n"
	tests := []struct{ name, text, want string }{
		{"not YAML", "a: [", "yaml"},
		{"unknown field", small + "tenant: x", `unknown field "tenant"`},
		{"empty", "", "tenants: name at least one"},
		{"no GUID", "tenants: [{id: x}]", `tenants[0].id: "x" is not a GUID`},
		{"tenant twice", strings.Replace(small, "111}]", "111}, {id: 11111111-1111-4111-8111-111111111111}]", 1), "already used"},
		{"identity ID", small + "identities: [{resourceID: /x}]", `identity ID "/x": expected /subscriptions/`},
		{"VM name", small + "virtualMachines: [{name: a/b, resourceGroup: g}]", "is not a name Azure allows"},
		{"VM twice", small + "virtualMachines: [{name: a, resourceGroup: g}, {name: A, resourceGroup: G}]", "already used"},
		{"address", small + "virtualMachines: [{name: a, resourceGroup: g, addresses: [x]}]", "expected an IP address"},
		{"address twice", small + vm + "scaleSets: [{name: s, resourceGroup: g, instances: [{id: '0', addresses: ['::ffff:10.0.0.1']}]}]", "already used"},
		{"scale set with addresses", small + "scaleSets: [{name: s, resourceGroup: g, addresses: [10.0.0.1]}]", "scale set's instances"},
		{"duration", small + "settings: {arm: {updateDuration: soon}}", "write it like 1.5s"},
		{"negative duration", small + "settings: {arm: {updateDuration: -1s}}", "not negative"},
		{"huge duration", small + "settings: {arm: {updateDuration: 1e300}}", "number of seconds"},
		{"authorization", small + "settings: {authorization: maybe}", "expected any or roles"},
		{"bucket", small + "settings: {limits: {reads: {size: 3, perMinute: 0}}}", "bucket needs"},
		{"default machine", small + "settings: {imds: {defaultMachine: x}}", `is called "x"`},
		{"role", small + "roleAssignments: [{principalID: 11111111-1111-4111-8111-111111111111, scope: /, role: King}]", "not known"},
		{"issuer", small + "issuers: [{issuer: x}]", "exactly one of"},
		{"fault", small + "faults: [{name: f}]", "does nothing"},
		{"certificate", small + "applications: [{clientID: 33333333-3333-4333-8333-333333333333, principalID: 33333333-3333-4333-8333-333333333333, certificate: x}]", "no PEM certificate"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := world.Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// FuzzParse: every parsed document makes a valid world, and no input causes a panic.
func FuzzParse(f *testing.F) {
	text, err := world.Default("s").Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(small)
	f.Add("settings: {arm: {updateDuration: 1e9}}")
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := world.Parse([]byte(text))
		if err != nil {
			return
		}
		w, err := world.New(doc, nil)
		if err != nil {
			t.Fatalf("parsed but refused: %v", err)
		}
		for _, m := range w.Machines("", "", "") {
			_, _ = w.BeginUpdate(m.ID, world.Change{System: true})
		}
	})
}
