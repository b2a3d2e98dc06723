package privileged

import (
	"testing"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/testnet"
)

// TestDefault: on a machine's own network requests are captured inside pods, and in another network
// namespace, whose node may be one of several on the machine, they are not.
func TestDefault(t *testing.T) {
	testnet.Require(t)
	var inside Options
	if err := testnet.New(t).Do(func() error { inside.Complete(); return nil }); err != nil {
		t.Fatal(err)
	}
	chosen := parsed(t, "--capture=require")
	chosen.Complete()
	if inside.Way != CaptureWire || chosen.Way != CaptureRequire {
		t.Errorf("%s in a namespace, and %s if chosen", inside.Way, chosen.Way)
	}
	if first, err := netns.IsFirst(); err != nil || !first {
		t.Skipf("the test is not in the machine's first network namespace, error %v", err)
	}
	var outside Options
	if outside.Complete(); outside.Way != CapturePrefer {
		t.Errorf("%s on the machine's own network", outside.Way)
	}
}
