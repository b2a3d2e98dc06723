// What ties an address to its pod besides the word of the API server, which may
// come late: the network interface that the address is behind.

package attest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bond holds the network interface of a pod's address. A pod keeps its interface
// for as long as it keeps its network, and the kernel counts interfaces up: so
// whoever comes from another interface, or from one that is younger than the
// news of the pod, has got the address after it. That is seen at once, however
// late the API server tells of the pod's end, and also while it is away.
//
// It does not help where all pods share the interface that the node sees (a
// bridge), nor against a successor that was there before the agent heard of
// either pod.
type bond struct {
	// link is the pod's, learned from its first connection; 0 before.
	link atomic.Int64
	// newest was the node's newest interface when the pod's address became
	// known; 0 when nobody could tell.
	newest int64
	// seen is when the last connection was, in Unix seconds.
	seen atomic.Int64
}

// holds tells whether a connection by link can be the pod's, and notes that there
// was one. Without evidence (link 0) it can.
func (b *bond) holds(link int, now time.Time) bool {
	if link == 0 {
		return true
	}
	l := int64(link)
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

// settleTime is how long the news of a pod's end may take, before a pod whose
// address is on another interface is asked about. The kubelet tells of the end of
// a pod's containers within a second.
//
// A pod that was never heard is asked about sooner: that its interface is younger
// than the news of it is a hint only, as nothing makes a network plugin go in that
// order.
const settleTime, settleUnheard = 2 * time.Second, 250 * time.Millisecond

// confirm asks the API server about the pod whose address moved, and bonds the
// address anew when that pod is the one it was. It does not where the pod may be
// the victim of another that took its address; see mayMove.
func (t *Table) confirm(ctx context.Context, o Origin) {
	a := o.Unmap()
	t.mu.RLock()
	claims := t.byAddr[a]
	worth := len(claims) == 1 && t.mayMove(claims[0].bond)
	t.mu.RUnlock()
	if !worth {
		return // clear, or not to be made clear by asking
	}
	p, err := t.cfg.Ask(ctx, claims[0].caller.NamespacedName)
	if err != nil || p.UID != claims[0].caller.UID || !p.DeletionTimestamp.IsZero() || !slices.Contains(callerAddresses(p), a) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.byAddr[a]; len(now) == 1 && now[0] == claims[0] && t.mayMove(claims[0].bond) {
		claims[0].link.Store(int64(o.Link))
		t.wake(a)
	}
}

// mayMove tells whether it can be the pod of the bond that is heard by another
// interface. It cannot
//   - while its own is there: who has the address on another took it from the pod;
//   - while there is a new pod whose address is not known: it may be that one's
//     now, and the end of the other not told yet, however long the kubelet takes.
//
// The lock is held.
func (t *Table) mayMove(b *bond) bool {
	for _, since := range t.without {
		if time.Since(since) < newcomerTime {
			return false
		}
	}
	known := int(b.link.Load())
	return known == 0 || !t.cfg.LinkThere(known)
}

// newcomerTime is how long a pod counts as one that has just got its address:
// some never get one, such as those whose volumes are missing.
const newcomerTime = 30 * time.Second

// LinkThere tells whether there is an interface of that number in this network
// namespace. When it cannot be told, there is.
func LinkThere(number int) bool {
	_, err := netlink.LinkByIndex(number)
	_, gone := errors.AsType[netlink.LinkNotFoundError](err)
	return !gone && !errors.Is(err, unix.ENODEV)
}

// bond returns the bond of a pod's address, the one before if there was one. A
// new one takes its place when the pod was given a new network since it was last
// heard, which happens after a node's restart or when somebody ends its sandbox:
// then it may have another interface. The kubelet's time of that is compared with
// the last connection, because news that comes late may be of a pod that has
// ended meanwhile.
func (t *Table) bond(before, now pod, a netip.Addr) *bond {
	old := before.bonds[a]
	again := old != nil && now.ready.After(before.ready) && now.ready.Unix() >= old.seen.Load()
	if old != nil && before.caller.UID == now.caller.UID && !again {
		return old
	}
	return &bond{newest: int64(t.cfg.NewestLink())}
}

// NewestLink returns the number of the newest network interface in this network
// namespace, 0 when it cannot be told. The kernel never gives a lower number to
// a later interface, unless it is asked for that number.
func NewestLink() int {
	links, err := net.Interfaces()
	if err != nil {
		return 0
	}
	newest := 0
	for _, l := range links {
		newest = max(newest, l.Index)
	}
	return newest
}
