package hook

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/hook/uplinks"
	"github.com/podid-io/podid/internal/testnet"
)

// TestGuardEach: an interface that has gone since it was listed is no failure, and others are.
func TestGuardEach(t *testing.T) {
	testnet.Require(t)
	node, outside := testnet.New(t), testnet.New(t)
	testnet.Veth(t, node, "eth0", outside, "eth0")
	testnet.Veth(t, node, "eth1", outside, "eth1")
	node.Address(t, "eth0", "10.0.0.1/24")
	node.Address(t, "eth1", "10.0.1.1/24")
	node.Route(t, "0.0.0.0/0", "10.0.0.2", "eth0")
	node.Route(t, "169.254.0.0/16", "10.0.1.2", "eth1")
	broken := errors.New("broken")
	if err := node.Do(func() error {
		all, err := uplinks.List(t.Context(), []netip.Addr{netip.MustParseAddr("169.254.169.254")})
		if err != nil {
			return err
		}
		if len(all) != 2 {
			t.Errorf("uplinks %v", all)
		}
		eth1, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(eth1); err != nil {
			return err
		}
		for name, fails := range map[string]bool{"eth0": true, "eth1": false} {
			err := guardEach(all, func(u program.Uplink) error {
				if (u.Index == eth1.Attrs().Index) == (name == "eth1") {
					return broken
				}
				return nil
			})
			if errors.Is(err, broken) != fails {
				t.Errorf("the guard of %s fails: %v", name, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
