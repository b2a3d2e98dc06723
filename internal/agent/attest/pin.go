// What ties an address to its pod besides the API server's report, which may come late: the network
// interface that the address is behind.

package attest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pin is the network interface of a pod's address. A pod keeps its interface for as long as it
// keeps its network, and the kernel's indexes of interfaces only grow. A connection by another
// interface, or by one that is younger than the report of the pod, comes from a later owner of the
// address. This is noticed at once, however late the API server reports the pod's end, and also
// while the API server is away.
//
// It does not help where all pods share the interface that the node sees (a bridge), nor against a
// later owner that existed before the agent knew either pod.
type pin struct {
	// link is the index of the pod's interface, as of its first connection; 0 before.
	link atomic.Int64
	// newest was the node's newest interface when the pod's address became known, or 0 if it was
	// unknown.
	newest int64
	// seen is when the last connection was, in Unix seconds.
	seen atomic.Int64
}

// matches reports whether a connection by the interface can be the pod's, and records that there
// was one. Without evidence (index 0) it can.
func (b *pin) matches(index int, now time.Time) bool {
	if index == 0 {
		return true
	}
	l := int64(index)
	known := b.link.Load()
	if known == 0 {
		if b.newest != 0 && l > b.newest {
			return false
		}
		if b.link.CompareAndSwap(0, l) {
			known = l
		} else {
			known = b.link.Load()
		}
	}
	if known != l {
		return false
	}
	b.seen.Store(now.Unix())
	return true
}

// settleTime is how long the report of a pod's end may take before the API server is asked about a
// pod whose address is on another interface. The kubelet reports the end of a pod's containers
// within a second.
//
// For a pod that has made no connection it is settleNeverSeen. That its interface is younger than
// the report of the pod is only a hint, because network plugins may do both in any order.
const settleTime, settleNeverSeen = 2 * time.Second, 250 * time.Millisecond

// confirm asks the API server about the pod whose address moved. If the pod still has the address,
// confirm pins the address to the new interface. It does not where another pod may have taken the
// address; see mayMove.
func (t *Table) confirm(ctx context.Context, o Origin) {
	a := o.Unmap()
	t.mu.RLock()
	claims := t.byAddr[a]
	worth := len(claims) == 1 && t.mayMove(claims[0].pin)
	t.mu.RUnlock()
	if !worth {
		return // it is known, or asking would not help
	}
	p, err := t.cfg.Ask(ctx, claims[0].caller.NamespacedName)
	if err != nil || p.UID != claims[0].caller.UID || !p.DeletionTimestamp.IsZero() || !slices.Contains(callerAddresses(p), a) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.byAddr[a]; len(now) == 1 && now[0] == claims[0] && t.mayMove(claims[0].pin) {
		claims[0].link.Store(int64(o.Link))
		t.wake(Source{addr: a})
	}
}

// mayMove reports whether the pinned pod itself can be behind another interface now. It cannot
//   - while its own interface exists: the other caller took the address from the pod;
//   - while there is a new pod whose address is not known: the address may be that pod's, and the
//     end of the other not reported yet, however long the kubelet takes.
//
// The caller must hold mu.
func (t *Table) mayMove(b *pin) bool {
	for _, since := range t.without {
		if time.Since(since) < newcomerTime {
			return false
		}
	}
	known := int(b.link.Load())
	return known == 0 || !t.cfg.LinkThere(known)
}

// newcomerTime is how long a pod counts as one that is about to get its address. Some pods never
// get one, such as those whose volumes are missing.
const newcomerTime = 30 * time.Second

// LinkThere reports whether this network namespace has an interface with that index. It returns
// true on errors.
func LinkThere(index int) bool {
	_, err := netlink.LinkByIndex(index)
	_, gone := errors.AsType[netlink.LinkNotFoundError](err)
	return !gone && !errors.Is(err, unix.ENODEV)
}

// pin returns the pin of a pod's address: the one before if there was one. A new one replaces it if
// the pod got a new network since its last connection, which happens after a restart of the node
// or when its sandbox was removed: it may then have another interface. The kubelet's time of that
// is compared with the last connection, because a late report may be of a pod that has ended since.
func (t *Table) pin(before, now pod, a netip.Addr) *pin {
	old := before.pins[a]
	again := old != nil && now.ready.After(before.ready) && now.ready.Unix() >= old.seen.Load()
	if old != nil && before.caller.UID == now.caller.UID && !again {
		return old
	}
	return &pin{newest: int64(t.cfg.NewestLink())}
}

// NewestLink returns the index of the newest network interface in this network namespace, or 0 if
// it is unknown. The kernel never gives a lower index to a later interface, unless it is asked for
// that index.
func NewestLink() int {
	newest, err := newestLink()
	if err != nil {
		return 0
	}
	return newest
}
