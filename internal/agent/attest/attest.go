// Package attest tells which pod opened a connection, from the address it came
// from. It knows the live pods of this node, as the API server tells of them,
// and nothing of identities.
package attest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Caller is a live pod of this node.
type Caller struct {
	types.NamespacedName
	UID types.UID
}

// Why a caller is not known. Both may pass: the pod may be so new that the API
// server has not told yet, or its predecessor's end not.
var (
	ErrUnknown   = errors.New("no live pod of this node has the address")
	ErrAmbiguous = errors.New("more than one live pod of this node claims the address")
	// ErrTooMany says that too many requests wait for a pod to become known.
	ErrTooMany = errors.New("too many requests wait for their pods to become known")
)

// Table holds the live pods of the node and who waits for one. It is fed by
// Set and Remove and asked from any goroutine.
//
// An address belongs to a caller only when exactly one live pod has it. Pods
// that are not live (see Live) are not in the table at all.
type Table struct {
	maxWaiting, maxPerAddress int

	mu      sync.RWMutex
	pods    map[types.NamespacedName]pod
	byAddr  map[netip.Addr][]Caller
	waits   map[netip.Addr]*wait
	waiting int
}

type pod struct {
	caller    Caller
	addresses []netip.Addr
}

// wait is closed, and thereby over, when the pods of an address change.
type wait struct {
	address netip.Addr
	changed chan struct{}
	n       int
}

// NewTable returns an empty table. At most maxWaiting requests wait at a time,
// and maxPerAddress from one address.
func NewTable(maxWaiting, maxPerAddress int) *Table {
	return &Table{
		maxWaiting: maxWaiting, maxPerAddress: maxPerAddress,
		pods: map[types.NamespacedName]pod{}, byAddr: map[netip.Addr][]Caller{}, waits: map[netip.Addr]*wait{},
	}
}

// Set takes the latest state of a pod of this node.
func (t *Table) Set(p *corev1.Pod) {
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	var addresses []netip.Addr
	if Live(p) {
		addresses = Addresses(p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(key)
	if len(addresses) == 0 {
		return
	}
	c := Caller{NamespacedName: key, UID: p.UID}
	t.pods[key] = pod{c, addresses}
	for _, a := range addresses {
		t.byAddr[a] = append(t.byAddr[a], c)
		t.wake(a)
	}
}

// Remove takes that a pod is gone from this node.
func (t *Table) Remove(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(key)
}

func (t *Table) drop(key types.NamespacedName) {
	p, ok := t.pods[key]
	if !ok {
		return
	}
	delete(t.pods, key)
	for _, a := range p.addresses {
		// A new slice: readers may hold the old one.
		var left []Caller
		for _, c := range t.byAddr[a] {
			if c.NamespacedName != key {
				left = append(left, c)
			}
		}
		if t.byAddr[a] = left; len(left) == 0 {
			delete(t.byAddr, a)
		}
		t.wake(a)
	}
}

func (t *Table) wake(a netip.Addr) {
	if w := t.waits[a]; w != nil {
		close(w.changed)
		delete(t.waits, a)
	}
}

// Caller returns the one live pod with the address, from memory.
func (t *Table) Caller(a netip.Addr) (Caller, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.find(a)
}

func (t *Table) find(a netip.Addr) (Caller, error) {
	switch callers := t.byAddr[a.Unmap()]; len(callers) {
	case 0:
		return Caller{}, ErrUnknown
	case 1:
		return callers[0], nil
	default:
		return Caller{}, fmt.Errorf("%w: %s and %s", ErrAmbiguous, callers[0], callers[1])
	}
}

// Await returns the one live pod with the address, and waits for it until ctx
// ends: then the error is why it is not known.
func (t *Table) Await(ctx context.Context, a netip.Addr) (Caller, error) {
	for {
		c, w, err := t.subscribe(a.Unmap())
		if w == nil {
			return c, err
		}
		select {
		case <-w.changed:
			t.unsubscribe(w)
		case <-ctx.Done():
			t.unsubscribe(w)
			return Caller{}, err
		}
	}
}

// subscribe finds the caller, or a wait to join and why there is no caller yet.
func (t *Table) subscribe(a netip.Addr) (Caller, *wait, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.find(a)
	if err == nil {
		return c, nil, nil
	}
	w := t.waits[a]
	if w == nil {
		w = &wait{address: a, changed: make(chan struct{})}
	}
	if t.waiting >= t.maxWaiting || w.n >= t.maxPerAddress {
		return c, nil, fmt.Errorf("%w; %w", ErrTooMany, err)
	}
	t.waits[a] = w
	t.waiting++
	w.n++
	return c, w, err
}

func (t *Table) unsubscribe(w *wait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
	if w.n--; w.n == 0 && t.waits[w.address] == w {
		delete(t.waits, w.address)
	}
}

// Named returns the live pod of that name, for host processes that ask on its
// behalf.
func (t *Table) Named(key types.NamespacedName) (Caller, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p, ok := t.pods[key]
	return p.caller, ok
}
