package cni

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/testnet"
)

// TestAdd: the program is on the node's end of the pod's link, and the result of the plugin before
// is passed on.
func TestAdd(t *testing.T) {
	testnet.Require(t)
	node, pod := testnet.New(t), testnet.New(t)
	testnet.Veth(t, node, "veth1", pod, "eth0")
	testnet.Veth(t, node, "eth0", testnet.New(t), "eth0")
	const before = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"},{"name":"veth1"}]}`
	const config = `{"cniVersion":"1.0.0","uplink":"eth0","except":["10.96.0.0/16"],"prevResult":` + before + `}`
	var out strings.Builder
	var filters []netlink.Filter
	err := node.Do(func() error {
		if err := Run("ADD", strings.NewReader(config), &out); err != nil {
			return err
		}
		port, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		filters, err = netlink.FilterList(port, netlink.HANDLE_MIN_INGRESS)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != before {
		t.Errorf("result %s", got)
	}
	if len(filters) != 1 || filters[0].(*netlink.BpfFilter).Name != "host_routing" {
		t.Errorf("filters %+v", filters)
	}
}
