package attest

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/testnet"
)

// TestNewestLink: the newest of so many interfaces that the kernel sends them in several messages.
func TestNewestLink(t *testing.T) {
	n := testnet.New(t)
	expect := func(what string, want int) {
		t.Helper()
		var got int
		if err := n.Do(func() error { got = NewestLink(); return nil }); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	expect("lo alone", 1)
	const many = 200
	err := n.Do(func() error {
		for i := range many {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = fmt.Sprint("link-", i)
			link := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprint("peer-", i)}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	highest := 0
	err = n.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			highest = max(highest, l.Attrs().Index)
		}
		return err
	})
	if err != nil || highest < many {
		t.Fatal(highest, err)
	}
	expect("many", highest)
}
