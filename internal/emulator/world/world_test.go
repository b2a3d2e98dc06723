package world_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/world"
)

// clock is a clock that only the test advances.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var (
	theVM   = world.MachineID{Kind: world.VM, SubscriptionID: world.DefaultSubscription, ResourceGroup: "demo", Name: "vm-0"}
	theVMSS = world.MachineID{Kind: world.VMSS, SubscriptionID: world.DefaultSubscription, ResourceGroup: "demo", Name: "vmss-0"}
)

func id(name string) string {
	return "/subscriptions/" + world.DefaultSubscription +
		"/resourceGroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

func newWorld(t *testing.T, change func(*world.Document)) (*world.World, *clock) {
	t.Helper()
	doc := world.Default("s3cret")
	if change != nil {
		change(&doc)
	}
	c := &clock{now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	w, err := world.New(doc, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	return w, c
}

// names returns the last segments of IDs.
func names(ids []string) []string {
	out := []string{}
	for _, id := range ids {
		out = append(out, id[strings.LastIndexByte(id, '/')+1:])
	}
	return out
}

func TestMerge(t *testing.T) {
	system := &world.SystemIdentity{ClientID: world.GUID("c"), PrincipalID: world.GUID("p")}
	tests := []struct {
		name   string
		system bool     // before
		have   []string // before
		change world.Change
		want   []string
		keeps  bool // the system-assigned identity remains
		err    error
	}{
		{
			name:   "add the first",
			change: world.Change{User: true, Identities: map[string]bool{id("demo-identity"): true}}, want: []string{"demo-identity"},
		},
		{
			name: "add keeps others", have: []string{id("vm-identity")},
			change: world.Change{User: true, Identities: map[string]bool{id("demo-identity"): true}},
			want:   []string{"vm-identity", "demo-identity"},
		},
		{
			name: "case makes no difference", have: []string{strings.ToUpper(id("vm-identity"))},
			change: world.Change{User: true, Identities: map[string]bool{strings.ToLower(id("vm-identity")): true}},
			want:   []string{"VM-IDENTITY"},
		},
		{
			name: "null removes", have: []string{id("vm-identity"), id("demo-identity")},
			change: world.Change{User: true, Identities: map[string]bool{id("VM-identity"): false}}, want: []string{"demo-identity"},
		},
		{
			name: "null for what is not there", have: []string{id("vm-identity")},
			change: world.Change{User: true, Identities: map[string]bool{id("demo-identity"): false}}, want: []string{"vm-identity"},
		},
		{
			name: "add and remove at once", have: []string{id("vm-identity")},
			change: world.Change{User: true, Identities: map[string]bool{id("vm-identity"): false, id("other-identity"): true}},
			want:   []string{"other-identity"},
		},
		{
			name: "none left", have: []string{id("vm-identity")},
			change: world.Change{User: true, Identities: map[string]bool{id("vm-identity"): false}}, err: world.ErrEmpty,
		},
		{name: "type None drops all", system: true, have: []string{id("vm-identity")}, change: world.Change{}, want: []string{}},
		{
			name: "UserAssigned drops the system's", system: true, have: []string{id("vm-identity")},
			change: world.Change{User: true}, want: []string{"vm-identity"},
		},
		{
			name: "both keeps both", system: true, have: []string{id("vm-identity")},
			change: world.Change{System: true, User: true}, want: []string{"vm-identity"}, keeps: true,
		},
		{
			name: "SystemAssigned drops the others", have: []string{id("vm-identity")},
			change: world.Change{System: true}, want: []string{}, keeps: true,
		},
		{
			name:   "identities without the type",
			change: world.Change{System: true, Identities: map[string]bool{id("demo-identity"): true}}, err: world.ErrSurplus,
		},
		{
			name: "put replaces", have: []string{id("vm-identity"), id("other-identity")},
			change: world.Change{User: true, Replace: true, Identities: map[string]bool{id("demo-identity"): true}},
			want:   []string{"demo-identity"},
		},
		{
			name: "too many",
			change: world.Change{User: true, Identities: map[string]bool{
				id("demo-identity"): true, id("vm-identity"): true, id("other-identity"): true, id("one-more"): true,
			}},
			err: world.ErrTooMany,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w, _ := newWorld(t, func(d *world.Document) {
				d.Settings.ARM.UpdateDuration, d.Settings.ARM.MaxIdentities = 0, 3
				d.VirtualMachines[0].Identities = test.have
				if test.system {
					d.VirtualMachines[0].SystemAssigned = system
				}
			})
			_, err := w.BeginUpdate(theVM, test.change)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			view, _ := w.Machine(theVM)
			if test.err != nil {
				if diff := cmp.Diff(test.have, view.Identities); diff != "" {
					t.Errorf("a refused write changed something (-want +got):\n%s", diff)
				}
				return
			}
			if diff := cmp.Diff(test.want, names(view.Identities)); diff != "" {
				t.Errorf("identities (-want +got):\n%s", diff)
			}
			if (view.SystemAssigned != nil) != test.keeps {
				t.Errorf("system-assigned identity %v", view.SystemAssigned)
			}
		})
	}
}

func TestUnknownIdentity(t *testing.T) {
	w, _ := newWorld(t, nil)
	_, err := w.BeginUpdate(theVM, world.Change{User: true, Identities: map[string]bool{id("nobody"): true}})
	var unknown *world.UnknownIdentityError
	if !errors.As(err, &unknown) || unknown.ResourceID != id("nobody") {
		t.Errorf("error %v", err)
	}
}

func TestUnassignable(t *testing.T) {
	w, _ := newWorld(t, func(d *world.Document) { d.Identities[2].Unassignable = true })
	_, err := w.BeginUpdate(theVM, world.Change{User: true, Identities: map[string]bool{id("demo-identity"): true, id("other-identity"): true}})
	if !errors.Is(err, world.ErrUnassignable) || strings.Contains(err.Error(), "other-identity") {
		t.Errorf("error %v", err)
	}
}

// TestUpdateStory follows one write from its start until IMDS reflects it.
func TestUpdateStory(t *testing.T) {
	w, c := newWorld(t, func(d *world.Document) { d.Settings.ARM.IMDSDelay = world.Duration(time.Second) })
	add := world.Change{User: true, Identities: map[string]bool{id("demo-identity"): true}}
	before, _ := w.Machine(theVMSS)
	op, err := w.BeginUpdate(theVMSS, add)
	if err != nil {
		t.Fatal(err)
	}
	caller := func() int {
		vm, ok := w.Caller(netip.MustParseAddr("10.0.0.6"))
		if !ok || vm.Name() != "vmss-0000001" {
			t.Fatalf("caller %v", vm)
		}
		return len(vm.User)
	}
	check := func(when string, updating bool, onARM, onIMDS int) {
		t.Helper()
		view, _ := w.Machine(theVMSS)
		if view.Updating != updating || len(view.Identities) != onARM || caller() != onIMDS {
			t.Errorf("%s: updating %v, %d on ARM, %d on IMDS", when, view.Updating, len(view.Identities), caller())
		}
	}
	check("at once", true, 1, 0)
	if _, err := w.BeginUpdate(theVMSS, add); !errors.Is(err, world.ErrBusy) {
		t.Errorf("a second write meanwhile: %v", err)
	}
	if _, err := w.BeginUpdate(theVM, add); err != nil {
		t.Errorf("a write to another machine meanwhile: %v", err)
	}
	c.pass(1999 * time.Millisecond)
	check("just before the end", true, 1, 0)
	c.pass(time.Millisecond)
	check("at the end", false, 1, 0)
	if op, _ = w.Operation(op.ID); !op.Done {
		t.Error("the operation is not done")
	}
	c.pass(time.Second)
	check("after the delay", false, 1, 1)

	add.ETag = before.ETag
	if _, err := w.BeginUpdate(theVMSS, add); !errors.Is(err, world.ErrChanged) {
		t.Errorf("a write with an old ETag: %v", err)
	}
	after, _ := w.Machine(theVMSS)
	if add.ETag = after.ETag; after.ETag == before.ETag {
		t.Error("the ETag did not change")
	}
	if _, err := w.BeginUpdate(theVMSS, add); err != nil {
		t.Errorf("a write with the ETag of now: %v", err)
	}
}

// TestCaller: callers are identified by their address, and loopback callers are the default
// machine.
func TestCaller(t *testing.T) {
	w, _ := newWorld(t, nil)
	for address, want := range map[string]string{
		"10.0.0.4": "vm-0", "::ffff:10.0.0.5": "vmss-0000000", "127.0.0.1": "vm-0", "::1": "vm-0", "10.9.9.9": "",
	} {
		if vm, ok := w.Caller(netip.MustParseAddr(address)); vm.Name() != want || ok != (want != "") {
			t.Errorf("%s: %q, want %q", address, vm.Name(), want)
		}
	}
	strict, _ := newWorld(t, func(d *world.Document) { d.Settings.IMDS.DefaultMachine = "" })
	if vm, ok := strict.Caller(netip.MustParseAddr("127.0.0.1")); ok {
		t.Errorf("without a default machine, loopback is %s", vm.Name())
	}
}

func TestBucket(t *testing.T) {
	w, c := newWorld(t, nil)
	bucket := world.Bucket{Size: 2, PerMinute: 4}
	take := func() time.Duration { _, wait := w.Take("k", bucket); return wait }
	got := []time.Duration{take(), take(), take()}
	c.pass(14 * time.Second)
	got = append(got, take())
	c.pass(time.Second)
	got = append(got, take(), take())
	c.pass(time.Hour)
	got = append(got, take(), take(), take())
	s := time.Second
	if diff := cmp.Diff([]time.Duration{0, 0, 15 * s, 1 * s, 0, 15 * s, 0, 0, 15 * s}, got); diff != "" {
		t.Errorf("waits (-want +got):\n%s", diff)
	}
	leave, ok := w.Enter("k", 1)
	if _, again := w.Enter("k", 1); !ok || again {
		t.Error("more than one at once")
	}
	leave()
	if _, ok := w.Enter("k", 1); !ok {
		t.Error("nobody inside, and no place")
	}
}

func TestAllowed(t *testing.T) {
	w, _ := newWorld(t, func(d *world.Document) {
		d.Settings.Authorization = world.AuthorizeRoles
		d.RoleAssignments = []world.RoleAssignment{
			{PrincipalID: world.GUID("reader"), Scope: "/subscriptions/" + world.DefaultSubscription + "/resourceGroups/demo", Role: "Reader"},
			{PrincipalID: world.GUID("own"), Scope: "/", Actions: []string{"Microsoft.Compute/*/read"}},
		}
	})
	group := "/subscriptions/" + world.DefaultSubscription + "/RESOURCEGROUPS/demo"
	tests := []struct {
		who, action, scope string
		want               bool
	}{
		{"reader", "Microsoft.Compute/virtualMachines/read", group + "/providers/x", true},
		{"reader", "Microsoft.Compute/virtualMachines/read", group + "2/providers/x", false},
		{"reader", "Microsoft.Compute/virtualMachines/write", group, false},
		{"own", "microsoft.compute/virtualMachines/read", group, true},
		{"own", "Microsoft.Network/x/read", group, false},
		{"nobody", "Microsoft.Compute/virtualMachines/read", group, false},
	}
	for _, test := range tests {
		if got := w.Allowed(world.GUID(test.who), test.action, test.scope); got != test.want {
			t.Errorf("%s %s on %s: %v", test.who, test.action, test.scope, got)
		}
	}
	if !w.Sees(world.GUID("reader"), world.DefaultSubscription) || w.Sees(world.GUID("nobody"), world.DefaultSubscription) {
		t.Error("the reader sees the subscription, nobody does not")
	}
}

// TestConcurrent calls all methods concurrently, for the race detector.
func TestConcurrent(t *testing.T) {
	w, c := newWorld(t, nil)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 10 {
				_, _ = w.BeginUpdate(theVMSS, world.Change{User: true, Identities: map[string]bool{id("demo-identity"): i%2 == 0, id("vm-identity"): true}})
				_, _ = w.Caller(netip.MustParseAddr("10.0.0.5"))
				_ = w.Machines("", "", "")
				_ = w.SetFault(world.Fault{Name: "f", Status: 500})
				_, _, _ = w.TakeFault("arm", "GET", "/", "")
				_, _ = w.Take("x", world.Bucket{Size: 3, PerMinute: 3})
				_ = w.Edit(func(d *world.Document) error { d.Settings.ARM.RetryAfter = i; return nil })
				w.Log().Add(world.Request{})
				_ = w.Log().Find(world.Filter{})
				c.pass(time.Second)
			}
		})
	}
	group.Wait()
	if err := w.Reset(); err != nil {
		t.Fatal(err)
	}
	view, _ := w.Machine(theVMSS)
	if len(view.Identities) != 0 || len(w.Faults()) != 0 || len(w.Log().Find(world.Filter{})) != 0 {
		t.Errorf("after the reset: %v, faults %v", view.Identities, w.Faults())
	}
}

func TestLog(t *testing.T) {
	log := world.NewLog()
	found := make(chan []world.Request)
	go func() { found <- log.Wait(t.Context(), world.Filter{Surface: "imds", Path: "*/token"}) }()
	log.Add(world.Request{Surface: "arm", Path: "/x/token", Status: 200})
	log.Add(world.Request{Surface: "imds", Path: "/Metadata/Token", Status: 400})
	if got := <-found; len(got) != 1 || got[0].Seq != 2 {
		t.Errorf("waited for %v", got)
	}
	if got := log.Find(world.Filter{Status: 200}); len(got) != 1 || got[0].Seq != 1 {
		t.Errorf("status 200: %v", got)
	}
	for range 30000 {
		log.Add(world.Request{})
	}
	got := log.Find(world.Filter{})
	if len(got) > 20000 || len(got) < 18000 || got[len(got)-1].Seq != 30002 {
		t.Errorf("%d entries, the last is %d", len(got), got[len(got)-1].Seq)
	}
	if !slices.IsSortedFunc(got, func(a, b world.Request) int { return int(a.Seq) - int(b.Seq) }) {
		t.Error("out of order")
	}
}
