// The live world: the document, its indexes, and the state that changes over time.

package world

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// World is the state of the emulated Azure. Create one with New. Its methods are safe for
// concurrent use and return copies.
//
// Nothing in it runs in the background: a method that reads the state first ends the operations
// that are due. So the world needs a clock but no timers.
type World struct {
	now func() time.Time
	log *Log

	mu      sync.Mutex // guards everything below
	initial Document
	doc     Document
	index   index
	// live is the state of a machine beyond the document, by MachineID.Key.
	live       map[string]*liveMachine
	operations operations
	versions   int // the last ETag
	faults     []*faultState
	buckets    buckets
	rng        *rand.Rand
}

// index finds the entries of the document; all keys are folded to lower case.
type index struct {
	tenants      map[string]Tenant // by ID and by domain
	identities   map[string]Identity
	byClient     map[string]Identity // by client ID
	applications map[string]Application
	machines     map[string]*Machine
	kinds        map[string]Kind
	addresses    map[netip.Addr]caller
}

type caller struct {
	key      string
	instance int
}

// New returns a world for a document, which it completes and validates first. now is the clock; nil
// means the real one.
func New(doc Document, now func() time.Time) (*World, error) {
	doc, err := Complete(doc)
	if err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	w := &World{now: now, log: NewLog(), rng: rand.New(rand.NewPCG(1, 2))} //nolint:gosec // same faults in every run
	w.initial = doc
	w.mu.Lock()
	defer w.mu.Unlock()
	return w, w.restart(doc)
}

// Now returns the world's time.
func (w *World) Now() time.Time { return w.now() }

// Log returns the request log.
func (w *World) Log() *Log { return w.log }

// Reset restores the initial document, without operations or log entries and with full buckets.
func (w *World) Reset() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log.Clear()
	return w.restart(w.initial)
}

// Replace rebuilds the world from a document. Reset still returns to the original document.
func (w *World) Replace(doc Document) error {
	doc, err := Complete(doc)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.restart(doc)
}

func (w *World) restart(doc Document) error {
	fresh, err := clone(doc) // so that changes never reach w.initial
	if err != nil {
		return err
	}
	w.removeFault("")
	for _, f := range fresh.Faults {
		w.faults = append(w.faults, &faultState{Fault: f, gone: make(chan struct{})})
	}
	w.live = map[string]*liveMachine{}
	w.operations = operations{}
	w.buckets = buckets{}
	w.adopt(fresh)
	return nil
}

// adopt makes the document the current one and rebuilds the indexes. IMDS reflects the identities
// of new machines at once.
func (w *World) adopt(doc Document) {
	w.doc = doc
	ix := index{
		tenants: map[string]Tenant{}, identities: map[string]Identity{}, byClient: map[string]Identity{},
		applications: map[string]Application{}, machines: map[string]*Machine{}, kinds: map[string]Kind{},
		addresses: map[netip.Addr]caller{},
	}
	for _, t := range doc.Tenants {
		ix.tenants[Fold(t.ID)] = t
		if t.Domain != "" {
			ix.tenants[Fold(t.Domain)] = t
		}
	}
	for _, id := range doc.Identities {
		ix.identities[Fold(id.ResourceID)] = id
		ix.byClient[Fold(id.ClientID)] = id
	}
	for _, a := range doc.Applications {
		ix.applications[Fold(a.ClientID)] = a
	}
	ix.addMachines(VM, doc.VirtualMachines)
	ix.addMachines(VMSS, doc.ScaleSets)
	w.index = ix
	for key, m := range ix.machines {
		if w.live[key] == nil {
			w.live[key] = w.enliven(m)
		}
	}
	for key := range w.live {
		if ix.machines[key] == nil {
			delete(w.live, key)
		}
	}
}

func (ix *index) addMachines(kind Kind, list []Machine) {
	for i := range list {
		m := &list[i]
		key := m.id(kind).Key()
		ix.machines[key], ix.kinds[key] = m, kind
		for n, instance := range m.instances(kind) {
			for _, address := range instance.Addresses {
				if a, err := netip.ParseAddr(address); err == nil { // validate has checked it
					ix.addresses[a.Unmap()] = caller{key: key, instance: n}
				}
			}
		}
	}
}

// Document returns a copy of the current world in the form of a file.
func (w *World) Document() (Document, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	doc, err := clone(w.doc)
	doc.Faults = nil
	for _, f := range w.faults {
		doc.Faults = append(doc.Faults, f.Fault)
	}
	return doc, err
}

// Edit changes the document atomically: change gets a copy, and the result is validated before it
// takes effect. Operations in progress continue. IMDS's state of existing machines does not change
// unless their identities did.
func (w *World) Edit(change func(*Document) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	draft, err := clone(w.doc)
	if err != nil {
		return err
	}
	if err := change(&draft); err != nil {
		return err
	}
	draft, err = Complete(draft)
	if err != nil {
		return err
	}
	before := w.index
	w.adopt(draft)
	for key, m := range w.index.machines {
		if old := before.machines[key]; old != nil && !old.sameNames(m) {
			w.live[key] = w.enliven(m)
		}
	}
	return nil
}

// enliven creates the live state of a machine. IMDS reflects the document.
func (w *World) enliven(m *Machine) *liveMachine {
	w.versions++
	a := w.assigned(m)
	return &liveMachine{current: a, published: a, version: w.versions}
}

// Settings returns the current settings.
func (w *World) Settings() Settings {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.doc.Settings
}

// Tenant returns a directory by ID or domain.
func (w *World) Tenant(name string) (Tenant, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.index.tenants[Fold(name)]
	return t, ok
}

// Application returns an application by its client ID.
func (w *World) Application(clientID string) (Application, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.index.applications[Fold(clientID)]
	return a, ok
}

// Identity returns a user-assigned identity by its resource ID.
func (w *World) Identity(resourceID string) (Identity, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok := w.index.identities[Fold(resourceID)]
	return id, ok
}

// IdentityByClientID returns a user-assigned identity by its client ID.
func (w *World) IdentityByClientID(clientID string) (Identity, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok := w.index.byClient[Fold(clientID)]
	return id, ok
}

// Identities lists the user-assigned identities of a subscription and, unless group is empty,
// resource group.
func (w *World) Identities(subscription, group string) []Identity {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []Identity
	for _, id := range w.doc.Identities {
		parsed, err := ParseIdentityID(id.ResourceID)
		if err == nil && EqualFold(parsed.SubscriptionID, subscription) &&
			(group == "" || EqualFold(parsed.ResourceGroup, group)) {
			found = append(found, id)
		}
	}
	return found
}

// Subscriptions lists the subscriptions.
func (w *World) Subscriptions() []Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Subscription(nil), w.doc.Subscriptions...)
}

// Subscription returns a subscription by its ID.
func (w *World) Subscription(id string) (Subscription, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.doc.Subscriptions {
		if EqualFold(s.ID, id) {
			return s, true
		}
	}
	return Subscription{}, false
}

// ResourceGroups lists the resource groups of a subscription that are not empty, in their first
// spelling.
func (w *World) ResourceGroups(subscription string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var groups []string
	seen := map[string]bool{}
	add := func(sub, group string) {
		if EqualFold(sub, subscription) && !seen[Fold(group)] {
			seen[Fold(group)] = true
			groups = append(groups, group)
		}
	}
	for _, list := range [][]Machine{w.doc.VirtualMachines, w.doc.ScaleSets} {
		for _, m := range list {
			add(m.SubscriptionID, m.ResourceGroup)
		}
	}
	for _, id := range w.doc.Identities {
		if parsed, err := ParseIdentityID(id.ResourceID); err == nil {
			add(parsed.SubscriptionID, parsed.ResourceGroup)
		}
	}
	return groups
}

// Issuer returns the external issuer with that name.
func (w *World) Issuer(name string) (Issuer, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, issuer := range w.doc.Issuers {
		if issuer.Issuer == name {
			return issuer, true
		}
	}
	return Issuer{}, false
}

// KnownResource reports whether tokens for the resource are issued. It also returns its
// application, if it has one in the world.
func (w *World) KnownResource(resource string) (app *Application, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	trimmed := strings.TrimSuffix(Fold(resource), "/")
	if a, ok := w.index.applications[strings.TrimPrefix(trimmed, "api://")]; ok {
		return &a, true
	}
	if len(w.doc.Resources) == 0 {
		return nil, true
	}
	for _, r := range w.doc.Resources {
		if strings.TrimSuffix(Fold(r), "/") == trimmed {
			return nil, true
		}
	}
	return nil, false
}

func (w *World) random() float64 { return w.rng.Float64() }

func errNoMachine(id MachineID) error { return fmt.Errorf("%w: %s", ErrNotFound, id) }
