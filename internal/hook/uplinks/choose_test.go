package uplinks

import (
	"net/netip"
	"slices"
	"testing"
)

func TestChoose(t *testing.T) {
	metadata := netip.MustParseAddr("169.254.169.254")
	anywhere, elsewhere := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8")
	card := func(index int) device { return device{Uplink: Uplink{Index: index, Ethernet: true}} }
	virtual := func(index int) device {
		return device{Uplink: Uplink{Index: index, Ethernet: true}, virtual: true}
	}
	loopback := device{Uplink: Uplink{Index: 1}, loopback: true}
	for name, c := range map[string]struct {
		devices []device
		routes  []route
		want    []int
	}{
		"a card, and pods' interfaces": {[]device{loopback, card(2), virtual(7), virtual(8)}, []route{{anywhere, []int{2}}, {elsewhere, []int{7}}}, []int{2}},
		"a second card without routes": {[]device{loopback, card(3), card(2)}, []route{{anywhere, []int{2}}}, []int{2, 3}},
		"bond: its cards, and itself":  {[]device{loopback, card(2), card(3), virtual(4)}, []route{{anywhere, []int{4}}}, []int{2, 3, 4}},
		"a node that is a container":   {[]device{loopback, virtual(5), virtual(6)}, []route{{anywhere, []int{5}}, {elsewhere, []int{6}}}, []int{5}},
		"a route to the service alone": {[]device{loopback, virtual(5), virtual(6)}, []route{{netip.PrefixFrom(metadata, 32), []int{6}}}, []int{6}},
		"several ways":                 {[]device{loopback, virtual(5), virtual(6)}, []route{{anywhere, []int{5, 6}}}, []int{5, 6}},
		"a route into the loopback":    {[]device{loopback}, []route{{anywhere, []int{1}}}, nil},
		"no network yet":               {[]device{loopback}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []int
			for _, u := range choose(c.devices, c.routes, []netip.Addr{metadata}) {
				got = append(got, u.Index)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
