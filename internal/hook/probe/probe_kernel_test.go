package probe

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/testnet"
)

func TestMain(m *testing.M) {
	if _, is := Main(); is {
		return
	}
	hooktest.Main(m)
}

// elsewhere publishes another port than that of the listener.
type elsewhere struct{ Endpoints }

func (e elsewhere) Publish(cookie uint64, at netip.AddrPort) error {
	return e.Endpoints.Publish(cookie, netip.AddrPortFrom(at.Addr(), 1))
}

// TestProbe: a probe meets its listener where podid's programs decide, and reports what it meets
// where they do not.
func TestProbe(t *testing.T) {
	hooktest.Require(t)
	top, node, metadata := hooktest.Groups(t), testnet.New(t), netip.MustParseAddrPort("169.254.169.254:80")
	pods, others, pins := hooktest.Group(t, top, "kubepods"), hooktest.Group(t, top, "system"), hooktest.Pins(t)
	var hook *program.Hook
	err := node.Do(func() error {
		cookie, err1 := netns.Cookie()
		id, err2 := program.GroupID(pods)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		var err error
		hook, err = program.Attach(program.Config{Metadata: metadata, Node: cookie, Pods: id}, pods, pins)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hook.Close)

	for _, tt := range []struct {
		name, group string
		endpoints   Endpoints
		want        string
	}{
		{"among the pods", pods, hook, ""},
		{"again", pods, hook, ""},
		{"where no program is", others, hook, "network is unreachable"},
		{"with a listener that does not get it", pods, elsewhere{hook}, "connection refused"},
		{"without a group", filepath.Join(top, "none"), hook, "--cgroup-dir"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			if failed := node.Do(func() error { err = Run(t.Context(), tt.group, metadata, tt.endpoints); return nil }); failed != nil {
				t.Fatal(failed)
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
	if published, err := hook.Published(); err != nil || len(published) != 0 {
		t.Errorf("left in the map: %v, %v", published, err)
	}
	if left, err := filepath.Glob(filepath.Join(pods, "*probe*")); err != nil || len(left) != 0 {
		t.Errorf("left among the pods: %v, %v", left, err)
	}
}
