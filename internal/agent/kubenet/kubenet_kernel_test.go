package kubenet

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/testnet"
)

// TestBridge: the bridge shows kubenet without any file of the node.
func TestBridge(t *testing.T) {
	testnet.Require(t)
	for name, tt := range map[string]struct {
		prepare func(*testnet.Net)
		want    string // in the error, empty for none
	}{
		"no bridge":               {func(*testnet.Net) {}, ""},
		"another's bridge":        {func(n *testnet.Net) { n.Bridge(t, "cni0") }, ""},
		"the name, but no bridge": {func(n *testnet.Net) { testnet.Veth(t, n, "cbr0", testnet.New(t), "eth0") }, ""},
		"kubenet":                 {func(n *testnet.Net) { n.Bridge(t, "cbr0") }, "the bridge cbr0 shows that this node uses kubenet"},
	} {
		t.Run(name, func(t *testing.T) {
			n := testnet.New(t)
			tt.prepare(n)
			err := n.Do(Detector{}.Check)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
