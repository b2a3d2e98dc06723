// Package attest determines which pod of this node opened a connection. Where the kernel proves the
// control group of the caller's socket, that decides. Where it does not, the source address and the
// network interface decide.
//
// The package knows the pods of the node from the API server, and nothing of identities.
package attest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	// ServiceAccount is the name of the pod's ServiceAccount. It is for the audit log and decides
	// nothing.
	ServiceAccount string
}

// Origin is where a connection came from.
type Origin struct {
	netip.Addr
	// Link is the index of the node's network interface that the connection came in by, or 0 if it is
	// unknown.
	Link int
	// Pod is the UID of the pod whose control group has the caller's socket. The kubelet names the
	// group for it, so the UID of a static pod is that of its manifest. If Pod is set, address and
	// interface decide nothing.
	Pod types.UID
	// Outside is the name of the network namespace that the caller asked in, if the kernel proved that
	// the caller is in no pod's control group.
	Outside string
}

// Proven reports whether the kernel proved which pod the caller is in, or that it is in none.
func (o Origin) Proven() bool { return o.Pod != "" || o.Outside != "" }

// Source is what distinguishes callers before their pods are known: the proven pod or else the
// address. It can be the key of a map.
type Source struct {
	addr    netip.Addr
	pod     types.UID
	outside string
}

// Source returns the source of the origin.
func (o Origin) Source() Source {
	if o.Proven() {
		return Source{pod: o.Pod, outside: o.Outside}
	}
	return Source{addr: o.Unmap()}
}

// String returns the source as logs have it.
func (s Source) String() string {
	switch {
	case s.pod != "":
		return "pod " + string(s.pod)
	case s.outside != "":
		return "no pod, in " + s.outside
	default:
		return s.addr.String()
	}
}

// String returns the source of the origin as logs have it.
func (o Origin) String() string { return o.Source().String() }

// Why a caller is not known. All but ErrOutside may pass: the API server may not have reported a
// new pod yet, or the end of the pod that had the address before.
var (
	ErrUnknown   = errors.New("no live pod of this node has the address")
	ErrNotBound  = errors.New("the API server has not reported the pod of the caller's control group yet, or its end")
	ErrAmbiguous = errors.New("more than one live pod of this node claims the address or control group")
	// ErrMoved means that the address is on another network interface than that of the pod which had
	// it: most likely another pod has it now.
	ErrMoved = errors.New("the address moved to another network interface, and the API server has not reported whose it is now")
	// errNeverSeen is joined with ErrMoved if that pod has never made a connection.
	errNeverSeen = errors.New(", and that pod has made no connection")
	// ErrOutside is final: the kernel proved that the caller is in no pod.
	ErrOutside = errors.New("the caller's control group is no pod's")
	// ErrTooMany means that too many requests wait for a pod to become known.
	ErrTooMany = errors.New("too many requests wait for their pods to become known")
)

// Table holds the live pods of the node and the requests that wait for one. It is updated by Set
// and Remove, and safe for concurrent use.
//
// An address belongs to a caller only if exactly one live pod has it and the connection came in by
// the pod's own network interface (see pin.go). Pods that are not live (see Live) are not callers,
// except those that are captured on the node's network.
type Table struct {
	cfg Config

	mu     sync.RWMutex
	pods   map[types.NamespacedName]pod
	byAddr map[netip.Addr][]claim
	// byGroup has the live pods by the UID in the name of their control group.
	byGroup map[types.UID][]Caller
	waits   map[Source]*wait
	waiting *turns.Queue[chan struct{}] // by source, because the namespace is not known
	// named has every pod of the node that has not finished, also those without an address of their
	// own. See Named.
	named map[types.NamespacedName]Caller
	// without has the live pods whose address is not known yet, and since when they are known.
	without map[types.NamespacedName]time.Time
}

// Config is the configuration of a Table.
type Config struct {
	// At most MaxWaiting requests wait for their pods at a time, and MaxPerSource of one source. At
	// MaxWaiting, the newest of the source that has most gives way.
	MaxWaiting, MaxPerSource int
	// NewestLink returns the index of the node's newest network interface, or 0 if it is unknown, as
	// if NewestLink is nil. See pin.go.
	NewestLink func() int
	// AnyLink disables the comparison of network interfaces.
	AnyLink bool
	// Ask reads a pod from the API server, past all caches. It may be nil. See Await.
	Ask func(context.Context, types.NamespacedName) (*corev1.Pod, error)
	// Captured reports whether a pod on the node's network is captured there, so that it can be a
	// caller: by its control group alone. If it is nil, none is.
	Captured func(*corev1.Pod) bool
	// LinkThere reports whether the node has a network interface. If it is nil, the function LinkThere
	// is used.
	LinkThere func(index int) bool
}

// pod is a live pod with an address.
type pod struct {
	caller    Caller
	group     types.UID
	addresses []netip.Addr
	pins      map[netip.Addr]*pin
	ready     time.Time
}

// claim is a live pod that has an address.
type claim struct {
	caller Caller
	*pin
}

// wait is shared by all requests that wait for a source. changed is closed when its pods change.
type wait struct {
	source  Source
	changed chan struct{}
	n       int
}

// waiter is one request that waits. lost is closed when another one takes its place.
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
		pods: map[types.NamespacedName]pod{}, byAddr: map[netip.Addr][]claim{}, byGroup: map[types.UID][]Caller{},
		waits:   map[Source]*wait{},
		waiting: turns.NewQueue[chan struct{}](c.MaxWaiting, c.MaxPerSource),
		without: map[types.NamespacedName]time.Time{}, named: map[types.NamespacedName]Caller{},
	}
}

// Set stores the latest state of a pod of this node.
func (t *Table) Set(p *corev1.Pod) {
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	now := pod{
		caller: Caller{NamespacedName: key, UID: p.UID, ServiceAccount: p.Spec.ServiceAccountName},
		group:  GroupUID(p), addresses: callerAddresses(p), ready: readySince(p), pins: map[netip.Addr]*pin{},
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before, since := t.pods[key], t.without[key]
	t.drop(key)
	if exists(p) {
		t.named[key] = now.caller
	}
	if !Live(p) && !t.captured(p) {
		return
	}
	t.pods[key] = now
	t.byGroup[now.group] = append(t.byGroup[now.group], now.caller)
	t.wake(Source{pod: now.group})
	if Live(p) && len(now.addresses) == 0 {
		if since.IsZero() {
			since = time.Now()
		}
		t.without[key] = since
	}
	for _, a := range now.addresses {
		now.pins[a] = t.pin(before, now, a)
		t.byAddr[a] = append(t.byAddr[a], claim{now.caller, now.pins[a]})
		t.wake(Source{addr: a})
	}
}

// captured reports whether a pod can be a caller on the node's network.
func (t *Table) captured(p *corev1.Pod) bool {
	return p.Spec.HostNetwork && exists(p) && t.cfg.Captured != nil && t.cfg.Captured(p)
}

// Remove forgets a pod that has left this node.
func (t *Table) Remove(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(key)
}

// drop forgets a pod. The caller must hold mu.
func (t *Table) drop(key types.NamespacedName) {
	delete(t.named, key)
	delete(t.without, key)
	p, ok := t.pods[key]
	if !ok {
		return
	}
	delete(t.pods, key)
	without(t.byGroup, p.group, func(c Caller) bool { return c.NamespacedName == key })
	t.wake(Source{pod: p.group})
	for _, a := range p.addresses {
		without(t.byAddr, a, func(c claim) bool { return c.caller.NamespacedName == key })
		t.wake(Source{addr: a})
	}
}

// without removes the elements from a list of a map. It makes a new list, because readers may hold
// the old one.
func without[K, E comparable](of map[K][]E, key K, remove func(E) bool) {
	if of[key] = slices.DeleteFunc(slices.Clone(of[key]), remove); len(of[key]) == 0 {
		delete(of, key)
	}
}

// wake notifies the requests that wait for a source. The caller must hold mu.
func (t *Table) wake(s Source) {
	if w := t.waits[s]; w != nil {
		close(w.changed)
		delete(t.waits, s)
	}
}

// Caller returns the one live pod at the origin, from memory.
func (t *Table) Caller(o Origin) (Caller, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.find(o)
}

// find is Caller. The caller must hold mu.
func (t *Table) find(o Origin) (Caller, error) {
	switch {
	case o.Outside != "":
		return Caller{}, ErrOutside
	case o.Pod != "":
		return t.ofGroup(o.Pod)
	}
	switch claims := t.byAddr[o.Unmap()]; len(claims) {
	case 0:
		return Caller{}, ErrUnknown
	case 1:
		if !t.cfg.AnyLink && !claims[0].matches(o.Link, time.Now()) {
			if claims[0].link.Load() == 0 {
				return Caller{}, fmt.Errorf("%w%w: %s had it", ErrMoved, errNeverSeen, claims[0].caller)
			}
			return Caller{}, fmt.Errorf("%w: %s had it", ErrMoved, claims[0].caller)
		}
		return claims[0].caller, nil
	default:
		return Caller{}, fmt.Errorf("%w: %s and %s", ErrAmbiguous, claims[0].caller, claims[1].caller)
	}
}

// ofGroup returns the one live pod of a control group. The caller must hold mu.
func (t *Table) ofGroup(uid types.UID) (Caller, error) {
	switch callers := t.byGroup[uid]; len(callers) {
	case 0:
		return Caller{}, ErrNotBound
	case 1:
		return callers[0], nil
	default: // static pods of one hash: another writer has made a mirror pod by hand
		return Caller{}, fmt.Errorf("%w: %s and %s", ErrAmbiguous, callers[0], callers[1])
	}
}

// Await returns the one live pod at the origin, and waits for it until ctx ends. The error is then
// why the pod is not known.
//
// An address that moved to another interface most likely belongs to another pod, which the API
// server is about to report. If it does not for a while, the API server is asked once. If the pod
// still lives and has the address, the pod has got a new interface.
//
//nolint:gocyclo // one loop over one select; parts of it would share all of its variables
func (t *Table) Await(ctx context.Context, o Origin) (Caller, error) {
	var settled <-chan time.Time
	for asked := false; ; {
		c, w, err := t.subscribe(o)
		if w == nil {
			return c, err
		}
		if errors.Is(err, ErrMoved) && settled == nil && !asked && t.cfg.Ask != nil {
			wait := settleTime
			if errors.Is(err, errNeverSeen) {
				wait = settleNeverSeen
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

// subscribe returns the caller, or a wait to join and why there is no caller yet.
func (t *Table) subscribe(o Origin) (Caller, *waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.find(o)
	if err == nil || errors.Is(err, ErrOutside) {
		return c, nil, err
	}
	s := o.Source()
	w := t.waits[s]
	if w == nil {
		w = &wait{source: s, changed: make(chan struct{})}
	}
	place, gaveWay := t.waiting.Push(s.String(), "", make(chan struct{}))
	if gaveWay != nil {
		close(gaveWay.Item)
	}
	if place == nil {
		return c, nil, fmt.Errorf("%w; %w", ErrTooMany, err)
	}
	t.waits[s] = w
	w.n++
	return c, &waiter{w, place}, err
}

func (t *Table) unsubscribe(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting.Remove(w.place)
	if w.n--; w.n == 0 && t.waits[w.source] == w.wait {
		delete(t.waits, w.source)
	}
}

// Named returns the pod of that name, for host processes that ask on its behalf. The pod has not
// finished. It need not have an address: its volumes may be being mounted, or it is on the node's
// own network. Only the caller's right to name pods is proven: it must not be used for a request of
// a pod.
func (t *Table) Named(key types.NamespacedName) (Caller, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	caller, ok := t.named[key]
	return caller, ok
}
