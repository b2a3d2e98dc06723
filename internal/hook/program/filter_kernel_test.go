package program

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// ciliums puts a filter on the uplink as Cilium does, in front of all there.
func (w *uplinked) ciliums(t *testing.T, program *ebpf.Program) *netlink.BpfFilter {
	t.Helper()
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: w.uplink.Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Handle: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "cil_to_netdev", DirectAction: true,
	}
	inNode(t, w.world, func() error {
		_ = netlink.FilterDel(f) // the first time it is not there
		return netlink.FilterAdd(f)
	})
	return f
}

// filters returns the names of the uplink's filters.
func (w *uplinked) filters(t *testing.T) string {
	t.Helper()
	var names []string
	inNode(t, w.world, func() error {
		all, err := egressFilters(w.uplink.Index)
		for _, f := range all {
			names = append(names, f.(*netlink.BpfFilter).Name)
		}
		return err
	})
	return strings.Join(names, " ")
}

// both are the filters of an uplink that another data plane shares.
const both = "podid_guard14 cil_to_netdev"

// TestFilter: without tcx the guard is a filter, beside another data plane's of the same priority,
// and always before it.
func TestFilter(t *testing.T) {
	w := newUplinked(t)
	w.hook.noTCX = true
	w.guard(t) // adds the qdisc
	if err := w.guarded(t); err != nil {
		t.Error(err)
	}
	for range 3 {
		w.ciliums(t, foreign(t, ebpf.SchedCLS, ebpf.AttachNone, returning(accept)))
		if err := w.guarded(t); err == nil || !strings.Contains(err.Error(), "cil_to_netdev") {
			t.Errorf("behind another filter: %v", err)
		}
		w.guard(t)
		if err := w.guarded(t); err != nil || w.filters(t) != both {
			t.Errorf("moved to the front: %v, filters %q", err, w.filters(t))
		}
		w.drops(t, w.node, w.podGroup, "AF_PACKET")
	}

	inNode(t, w.world, func() error { // another program removes the qdisc, with all filters
		return netlink.QdiscDel(&netlink.GenericQdisc{QdiscType: clsact, QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: w.uplink.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}})
	})
	if err := w.guarded(t); err == nil || !strings.Contains(err.Error(), "guard is not on interface") {
		t.Errorf("without the qdisc: %v", err)
	}
	w.guard(t)
	if err := w.guarded(t); err != nil {
		t.Errorf("after the qdisc was removed: %v", err)
	}
	w.drops(t, w.node, w.podGroup, "AF_PACKET")
	w.ciliums(t, foreign(t, ebpf.SchedCLS, ebpf.AttachNone, returning(accept)))
	w.guard(t)

	// A move that its process did not finish.
	inNode(t, w.world, func() error { return w.hook.putFilter(netlink.FilterAdd, w.uplink, filterHandle+7) })
	w.guard(t)
	if got := w.filters(t); got != both {
		t.Errorf("after a move that was not finished: filters %q", got)
	}
}

// TestFilterReplaced: a successor replaces the filter in place, and Remove removes it, and neither
// touches that of another data plane.
func TestFilterReplaced(t *testing.T) {
	w := newUplinked(t)
	w.hook.noTCX = true
	w.guard(t)
	w.ciliums(t, foreign(t, ebpf.SchedCLS, ebpf.AttachNone, returning(accept)))
	w.guard(t)
	before := w.hook
	w.attach(t)
	w.hook.noTCX = true
	if err := w.guarded(t); err != nil || w.filters(t) != both {
		t.Errorf("replaced: %v, filters %q", err, w.filters(t))
	}
	inNode(t, w.world, func() error {
		if err := before.Guarded(w.uplink); err == nil {
			t.Error("the filter passes for that of another process")
		}
		return nil
	})
	w.guard(t)
	w.drops(t, w.node, w.podGroup, "AF_PACKET")
	inNode(t, w.world, func() error { return Remove(w.pins) })
	if got := w.filters(t); got != "cil_to_netdev" {
		t.Errorf("filters after removal: %q", got)
	}
}

// TestOthersHandle: a filter of another name at the guard's handle stays.
func TestOthersHandle(t *testing.T) {
	w := newUplinked(t)
	w.hook.noTCX = true
	w.guard(t)
	inNode(t, w.world, func() error {
		filters, err := egressFilters(w.uplink.Index)
		if err != nil {
			return err
		}
		f := filters[0].(*netlink.BpfFilter)
		f.Fd, f.Name = foreign(t, ebpf.SchedCLS, ebpf.AttachNone, returning(verdictNext)).FD(), "another"
		return netlink.FilterReplace(f)
	})
	w.guard(t)
	if err := w.guarded(t); err != nil || w.filters(t) != "podid_guard14 another" {
		t.Errorf("%v, filters %q", err, w.filters(t))
	}
}

// TestOtherKind: where a filter of another kind has the first priority, the error says what to do.
func TestOtherKind(t *testing.T) {
	w := newUplinked(t)
	w.hook.noTCX = true
	w.guard(t)
	inNode(t, w.world, func() error {
		if err := Remove(w.pins); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: w.uplink.Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_IP,
			},
			Fd: foreign(t, ebpf.SchedCLS, ebpf.AttachNone, returning(accept)).FD(), Name: "another", DirectAction: true,
		})
	})
	inNode(t, w.world, func() error {
		if err := w.hook.Guard(w.uplink); err == nil || !strings.Contains(err.Error(), "tc filter show") {
			t.Errorf("error %v", err)
		}
		return nil
	})
	if got := w.filters(t); got != "another" {
		t.Errorf("filters: %q", got)
	}
	if got := hooktest.Client(t, w.node, w.podGroup, "connect"); got != "metadata service" {
		t.Errorf("on the node's network: %q", got)
	}
}
