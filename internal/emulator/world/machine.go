// Machines: VMs and scale sets, and the callers of IMDS.

package world

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
)

// assigned is the set of identities on a machine. It is immutable.
type assigned struct {
	system *SystemIdentity
	user   []string // resource IDs as given
	// as holds each identity as it was when it was assigned, by folded resource ID. An identity that
	// was deleted and recreated under its old name is a different one: it is not on the machine until
	// it is removed and assigned again.
	as map[string]Identity
}

// sameNames reports whether both list the same identities.
func (m *Machine) sameNames(other *Machine) bool {
	a, b := m.SystemAssigned, other.SystemAssigned
	if (a == nil) != (b == nil) || (a != nil && *a != *b) {
		return false
	}
	return slices.EqualFunc(m.Identities, other.Identities, EqualFold)
}

// assigned returns the machine's identities in the document, bound to the current ones.
func (w *World) assigned(m *Machine) assigned {
	a := assigned{system: m.SystemAssigned, user: slices.Clone(m.Identities), as: map[string]Identity{}}
	for _, id := range a.user {
		a.as[Fold(id)] = w.index.identities[Fold(id)]
	}
	return a
}

// bound returns the assigned identity, unless it was deleted or replaced.
func (w *World) bound(a assigned, id string) (Identity, bool) {
	identity, ok := w.index.identities[Fold(id)]
	return identity, ok && identity.ClientID == a.as[Fold(id)].ClientID
}

func (m *Machine) id(kind Kind) MachineID {
	return MachineID{Kind: kind, SubscriptionID: m.SubscriptionID, ResourceGroup: m.ResourceGroup, Name: m.Name}
}

// instances returns the machine's VMs: a VM is its own only instance.
func (m *Machine) instances(kind Kind) []Instance {
	if kind == VM {
		return []Instance{{Name: m.Name, Addresses: m.Addresses}}
	}
	return m.Instances
}

// MachineView is ARM's view of a machine.
type MachineView struct {
	ID       MachineID
	Machine  // a copy; Identities and SystemAssigned are the goal of the current write, if there is one
	TenantID string
	Updating bool
	ETag     string // changes with every write
	// Bound holds those of Identities that ARM shows with their IDs, by resource ID. They are
	// unchanged since they were assigned, or settings.arm.staleIDs is on.
	Bound map[string]Identity
	// OnIMDS are the resource IDs of the user-assigned identities that IMDS currently knows on the
	// machine.
	OnIMDS []string
}

// GUID derives a stable GUID from a name, such as a VM's vmId.
func GUID(name string) string {
	sum := sha256.Sum256([]byte(Fold(name)))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:32]
}

// Machine returns a VM or scale set.
func (w *World) Machine(id MachineID) (MachineView, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	return w.view(id.Key())
}

// Machines lists the VMs or scale sets of a subscription and, unless group is empty, resource
// group. An empty subscription or kind means all.
func (w *World) Machines(kind Kind, subscription, group string) []MachineView {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	var views []MachineView
	add := func(kind Kind, list []Machine) {
		for i := range list {
			m := &list[i]
			if (subscription == "" || EqualFold(m.SubscriptionID, subscription)) &&
				(group == "" || EqualFold(m.ResourceGroup, group)) {
				if v, ok := w.view(m.id(kind).Key()); ok {
					views = append(views, v)
				}
			}
		}
	}
	if kind != VMSS {
		add(VM, w.doc.VirtualMachines)
	}
	if kind != VM {
		add(VMSS, w.doc.ScaleSets)
	}
	return views
}

func (w *World) view(key string) (MachineView, bool) {
	m := w.index.machines[key]
	if m == nil {
		return MachineView{}, false
	}
	live := w.live[key]
	view := MachineView{
		ID:       m.id(w.index.kinds[key]),
		Machine:  m.copy(),
		TenantID: w.tenantOf(m.SubscriptionID),
		Updating: live.operation != "",
		ETag:     `"` + strconv.Itoa(live.version) + `"`,
		Bound:    map[string]Identity{},
		OnIMDS:   slices.Clone(live.published.user),
	}
	shown := live.current
	if live.operation != "" { // ARM shows the goal while it is working toward it
		shown = live.goal
		view.SystemAssigned, view.Identities = shown.system, slices.Clone(shown.user)
	}
	for _, id := range shown.user {
		if identity, ok := w.bound(shown, id); ok {
			view.Bound[id] = identity
		} else if was := shown.as[Fold(id)]; w.doc.Settings.ARM.StaleIDs && was.ClientID != "" {
			view.Bound[id] = was
		}
	}
	return view, true
}

func (m *Machine) copy() Machine {
	c := *m
	c.Identities = slices.Clone(m.Identities)
	c.Instances = slices.Clone(m.Instances)
	if m.SystemAssigned != nil {
		s := *m.SystemAssigned
		c.SystemAssigned = &s
	}
	return c
}

func (w *World) tenantOf(subscription string) string {
	for _, s := range w.doc.Subscriptions {
		if EqualFold(s.ID, subscription) {
			return s.TenantID
		}
	}
	return ""
}

// Caller is the VM that a request to IMDS came from, with the identities that IMDS knows on it.
type Caller struct {
	Machine  MachineID
	Instance Instance
	Location string
	Tags     map[string]string
	TenantID string // of the machine's subscription
	System   *SystemIdentity
	// User are the user-assigned identities that exist and are on the machine.
	User []Identity
}

// Name returns the VM's name for logs.
func (c Caller) Name() string { return c.Instance.Name }

// VMID returns the VM's unique ID, which is stable for its resource.
func (c Caller) VMID() string { return GUID(c.Machine.Key() + "/" + c.Instance.ID) }

// Caller returns the VM with that address. Loopback addresses that belong to no VM are mapped to
// the default machine.
func (w *World) Caller(address netip.Addr) (Caller, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	address = address.Unmap().WithZone("")
	who, ok := w.index.addresses[address]
	if !ok && address.IsLoopback() {
		who, ok = w.defaultCaller()
	}
	if !ok {
		return Caller{}, false
	}
	m, kind := w.index.machines[who.key], w.index.kinds[who.key]
	c := Caller{
		Machine: m.id(kind), Location: m.Location, Tags: m.Tags,
		TenantID: w.tenantOf(m.SubscriptionID),
		System:   w.live[who.key].published.system,
	}
	if list := m.instances(kind); who.instance < len(list) {
		c.Instance = list[who.instance]
	} else { // a scale set without instances, as the default machine
		c.Instance = Instance{ID: "0", Name: m.Name + "_0"}
	}
	published := w.live[who.key].published
	for _, id := range published.user {
		if identity, ok := w.bound(published, id); ok {
			c.User = append(c.User, identity)
		}
	}
	return c, true
}

func (w *World) defaultCaller() (caller, bool) {
	name := w.doc.Settings.IMDS.DefaultMachine
	if name == "" {
		return caller{}, false
	}
	for _, m := range w.doc.VirtualMachines {
		if EqualFold(m.Name, name) {
			return caller{key: m.id(VM).Key()}, true
		}
	}
	for _, m := range w.doc.ScaleSets {
		if EqualFold(m.Name, name) {
			return caller{key: m.id(VMSS).Key()}, true
		}
	}
	return caller{}, false
}
