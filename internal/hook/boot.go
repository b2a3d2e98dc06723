// Refusing pods before there is a holder: a node that has just booted.

package hook

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/hook/uplinks"
)

// GuardBoot refuses all pods the metadata service and the closed services, until a holder takes its
// programs over. It reports false if those of a holder are in place, which it leaves alone, or if
// it can put none in place. With true, an error is about interfaces without a guard. It is called
// in the node's own network namespace, on Linux 5.14 or newer.
//
// Group is the topmost control group. The pods' own need not exist before the kubelet runs, and its
// name is the kubelet's choice: whatever that is, it is below. The node's own network is let pass,
// so services of the node are not concerned.
func GuardBoot(ctx context.Context, s Settings) (guarded bool, err error) {
	if held, err := program.Elsewhere(s.Group, s.Pins); err != nil || held {
		return false, err
	}
	node, err := netns.Cookie()
	if err != nil {
		return false, err
	}
	programs, err := program.Attach(program.Config{Metadata: s.Metadata, Closed: s.Closed, Node: node}, s.Group, s.Pins)
	if err != nil {
		return false, err
	}
	defer programs.Close()
	return true, guardAll(ctx, programs, s.targets())
}

// guardAll puts the guard on the uplinks that there are now. The holder guards those that appear
// later.
func guardAll(ctx context.Context, programs *program.Hook, targets []netip.Addr) error {
	all, err := uplinks.List(ctx, targets)
	if err != nil {
		return err
	}
	return guardEach(all, programs.Guard)
}

// guardEach guards uplinks, other than those that have gone meanwhile.
func guardEach(all []uplinks.Uplink, guard func(program.Uplink) error) error {
	var failures []error
	for _, u := range all {
		err := guard(program.Uplink{Index: u.Index, Ethernet: u.Ethernet})
		if err != nil && !uplinks.Gone(u) {
			failures = append(failures, fmt.Errorf("guard interface %s: %w", u.Name, err))
		}
	}
	return errors.Join(failures...)
}

// targets returns the addresses that pods must not reach.
func (s *Settings) targets() []netip.Addr {
	all := []netip.Addr{s.Metadata.Addr()}
	for _, to := range s.Closed {
		all = append(all, to.Addr())
	}
	return all
}
