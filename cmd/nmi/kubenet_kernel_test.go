package main

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/testnet"
)

// The bridge gives kubenet away without a file of the node.
func TestKubenetBridge(t *testing.T) {
	testnet.Require(t)
	for name, tt := range map[string]struct {
		prepare func(*testnet.Net)
		allow   bool
		want    string // in the error; empty for none
	}{
		"no bridge":                {func(*testnet.Net) {}, false, ""},
		"another's bridge":         {func(n *testnet.Net) { n.Bridge(t, "cni0") }, false, ""},
		"no bridge, but called so": {func(n *testnet.Net) { testnet.Veth(t, n, "cbr0", testnet.New(t), "eth0") }, false, ""},
		"kubenet":                  {func(n *testnet.Net) { n.Bridge(t, "cbr0") }, false, "the bridge cbr0 says that this node uses kubenet"},
		"kubenet, allowed":         {func(n *testnet.Net) { n.Bridge(t, "cbr0") }, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := testnet.New(t)
			tt.prepare(n)
			o := nodeOptions{allowKubenet: tt.allow}
			err := n.Do(o.checkKubenet)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
