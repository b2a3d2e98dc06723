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
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/turns"
)

// Caller is a live pod of this node.
type Caller struct {
	types.NamespacedName
	UID types.UID
	// ServiceAccount is the name of the pod's, in its namespace. For the audit
	// log; it decides nothing.
	ServiceAccount string
}

// Origin is where a connection came from.
type Origin struct {
	netip.Addr
	// Link is the number of the node's network interface that it came in by, 0
	// when nobody can tell.
	Link int
}

// Why a caller is not known. All may pass: the pod may be so new that the API
// server has not told yet, or its predecessor's end not.
var (
	ErrUnknown   = errors.New("no live pod of this node has the address")
	ErrAmbiguous = errors.New("more than one live pod of this node claims the address")
	// ErrMoved says that the address is on another network interface than that
	// of the pod it belonged to: somebody else has got it.
	ErrMoved = errors.New("the address moved to another network interface, and the API server has not told yet whose it is now")
	// errUnheard goes with ErrMoved when that pod never made a connection.
	errUnheard = errors.New(", and that pod was never heard")
	// ErrTooMany says that too many requests wait for a pod to become known.
	ErrTooMany = errors.New("too many requests wait for their pods to become known")
)

// Table holds the live pods of the node and who waits for one. It is fed by
// Set and Remove and asked from any goroutine.
//
// An address belongs to a caller only when exactly one live pod has it, and the
// connection came in by the pod's own network interface (see bond). Pods that
// are not live (see Live) are not in the table at all.
type Table struct {
	cfg Config

	mu      sync.RWMutex
	pods    map[types.NamespacedName]pod
	byAddr  map[netip.Addr][]claim
	waits   map[netip.Addr]*wait
	waiting *turns.Queue[chan struct{}] // by address: whose namespace it is, is not known
	// named has every pod of the node that has not finished, also those without an address of
	// their own. See Named.
	named map[types.NamespacedName]Caller
	// without are live pods whose address is not known yet, and since when they
	// are there.
	without map[types.NamespacedName]time.Time
}

// Config are the settings of a Table.
type Config struct {
	// At most MaxWaiting requests wait for their pods at a time, and
	// MaxPerAddress from one address. When MaxWaiting do, the newest from the
	// address that has most gives way.
	MaxWaiting, MaxPerAddress int
	// NewestLink returns the number of the node's newest network interface; nil,
	// or 0 from it, when nobody can tell. See bond.
	NewestLink func() int
	// AnyLink takes callers at their address, whichever interface they come by.
	AnyLink bool
	// Ask reads a pod from the API server, past all caches; nil when there is no
	// way to. See Await.
	Ask func(context.Context, types.NamespacedName) (*corev1.Pod, error)
	// LinkThere tells whether the node has an interface; nil: the package's.
	LinkThere func(number int) bool
}

type pod struct {
	caller    Caller
	addresses []netip.Addr
	bonds     map[netip.Addr]*bond
	ready     time.Time
}

// claim is one live pod's to an address.
type claim struct {
	caller Caller
	*bond
}

// wait is closed, and thereby over, when the pods of an address change.
type wait struct {
	address netip.Addr
	changed chan struct{}
	n       int
}

// waiter is one request that waits. lost closes when another one takes its place.
type waiter struct {
	*wait
	place *turns.Entry[chan struct{}]
}

func (w *waiter) lost() <-chan struct{} { return w.place.Item }

// NewTable returns an empty table.
func NewTable(c Config) *Table {
	if c.NewestLink == nil {
		c.NewestLink = func() int { return 0 }
	}
	if c.LinkThere == nil {
		c.LinkThere = LinkThere
	}
	return &Table{
		cfg:  c,
		pods: map[types.NamespacedName]pod{}, byAddr: map[netip.Addr][]claim{}, waits: map[netip.Addr]*wait{},
		waiting: turns.NewQueue[chan struct{}](c.MaxWaiting, c.MaxPerAddress),
		without: map[types.NamespacedName]time.Time{}, named: map[types.NamespacedName]Caller{},
	}
}

// Set takes the latest state of a pod of this node.
func (t *Table) Set(p *corev1.Pod) {
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	addresses := callerAddresses(p)
	caller := Caller{NamespacedName: key, UID: p.UID, ServiceAccount: p.Spec.ServiceAccountName}
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.named, key); exists(p) {
		t.named[key] = caller
	}
	before, since := t.pods[key], t.without[key]
	t.drop(key)
	if len(addresses) == 0 {
		if since.IsZero() {
			since = time.Now()
		}
		if Live(p) {
			t.without[key] = since
		}
		return
	}
	now := pod{caller: caller, addresses: addresses, ready: readySince(p), bonds: map[netip.Addr]*bond{}}
	for _, a := range addresses {
		now.bonds[a] = t.bond(before, now, a)
		t.byAddr[a] = append(t.byAddr[a], claim{now.caller, now.bonds[a]})
		t.wake(a)
	}
	t.pods[key] = now
}

// Remove takes that a pod is gone from this node.
func (t *Table) Remove(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.named, key)
	t.drop(key)
}

func (t *Table) drop(key types.NamespacedName) {
	delete(t.without, key)
	p, ok := t.pods[key]
	if !ok {
		return
	}
	delete(t.pods, key)
	for _, a := range p.addresses {
		// A new slice: readers may hold the old one.
		var left []claim
		for _, c := range t.byAddr[a] {
			if c.caller.NamespacedName != key {
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

// Caller returns the one live pod that is at the origin, from memory.
func (t *Table) Caller(o Origin) (Caller, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.find(o)
}

func (t *Table) find(o Origin) (Caller, error) {
	switch claims := t.byAddr[o.Unmap()]; len(claims) {
	case 0:
		return Caller{}, ErrUnknown
	case 1:
		if !t.cfg.AnyLink && !claims[0].holds(o.Link, time.Now()) {
			if claims[0].link.Load() == 0 {
				return Caller{}, fmt.Errorf("%w%w: it was of %s", ErrMoved, errUnheard, claims[0].caller)
			}
			return Caller{}, fmt.Errorf("%w: it was of %s", ErrMoved, claims[0].caller)
		}
		return claims[0].caller, nil
	default:
		return Caller{}, fmt.Errorf("%w: %s and %s", ErrAmbiguous, claims[0].caller, claims[1].caller)
	}
}

// Await returns the one live pod that is at the origin, and waits for it until
// ctx ends: then the error is why it is not known.
//
// An address that moved to another interface is most likely another pod's, and
// the news of that on its way. When there is none after a while, the API
// server is asked once; if it still says that the pod lives and has the address,
// the pod has got a new interface.
func (t *Table) Await(ctx context.Context, o Origin) (Caller, error) {
	var settled <-chan time.Time
	for asked := false; ; {
		c, w, err := t.subscribe(o)
		if w == nil {
			return c, err
		}
		if errors.Is(err, ErrMoved) && settled == nil && !asked && t.cfg.Ask != nil {
			wait := settleTime
			if errors.Is(err, errUnheard) {
				wait = settleUnheard
			}
			timer := time.NewTimer(wait)
			defer timer.Stop()
			settled = timer.C
		}
		select {
		case <-w.changed:
			t.unsubscribe(w)
		case <-settled:
			settled, asked = nil, true
			t.unsubscribe(w)
			t.confirm(ctx, o)
		case <-w.lost():
			t.unsubscribe(w)
			return Caller{}, fmt.Errorf("%w; %w", ErrTooMany, err)
		case <-ctx.Done():
			t.unsubscribe(w)
			return Caller{}, err
		}
	}
}

// subscribe finds the caller, or a wait to join and why there is no caller yet.
func (t *Table) subscribe(o Origin) (Caller, *waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.find(o)
	if err == nil {
		return c, nil, nil
	}
	a := o.Unmap()
	w := t.waits[a]
	if w == nil {
		w = &wait{address: a, changed: make(chan struct{})}
	}
	place, gaveWay := t.waiting.Push(a.String(), "", make(chan struct{}))
	if gaveWay != nil {
		close(gaveWay.Item)
	}
	if place == nil {
		return c, nil, fmt.Errorf("%w; %w", ErrTooMany, err)
	}
	t.waits[a] = w
	w.n++
	return c, &waiter{w, place}, err
}

func (t *Table) unsubscribe(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting.Remove(w.place)
	if w.n--; w.n == 0 && t.waits[w.address] == w.wait {
		delete(t.waits, w.address)
	}
}

// Named returns the pod of that name, for host processes that ask on its behalf. The pod has not
// finished. It need not have an address: its volumes may be being mounted, or it is on the node's
// own network. Only the caller's right to name pods stands behind the answer: never use it for a
// request of a pod.
func (t *Table) Named(key types.NamespacedName) (Caller, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	caller, ok := t.named[key]
	return caller, ok
}
