package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/go-logr/logr/testr"
	"github.com/google/nftables"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/hook/uplinks"
	"github.com/podid-io/podid/internal/testnet"
)

// guarded is a node with an uplink and all programs in place.
type guarded struct {
	t        *testing.T
	node     *testnet.Net
	kubepods string
	pins     string
	uplink   uplinks.Uplink
	guards   *guards
	last     error // of the last check
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	testnet.Require(t)
	g := &guarded{
		t: t, node: testnet.New(t), kubepods: hooktest.Group(t, hooktest.Groups(t), "kubepods"), pins: hooktest.Pins(t),
	}
	testnet.Veth(t, g.node, "eth0", testnet.New(t), "eth0")
	g.do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		g.uplink = uplinks.Uplink{Index: device.Index, Name: device.Name, Ethernet: true}
		config := program.Config{Metadata: netip.MustParseAddrPort("169.254.169.254:80")}
		var errs [2]error
		config.Node, errs[0] = netns.Cookie()
		config.Pods, errs[1] = program.GroupID(g.kubepods)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		programs, err := program.Attach(config, g.kubepods, g.pins)
		if err != nil {
			return err
		}
		t.Cleanup(programs.Close)
		g.guards = newGuards(t.Context(), programs, Settings{
			Checked: func(err error) { g.last = err }, Group: g.kubepods, Metadata: config.Metadata,
		})
		return g.guards.guard([]uplinks.Uplink{g.uplink})
	})
	if g.last != nil {
		t.Fatal(g.last)
	}
	return g
}

func (g *guarded) do(f func() error) {
	g.t.Helper()
	if err := g.node.Do(f); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guarded) guardPin() string {
	return filepath.Join(g.pins, fmt.Sprintf("guard14-%d", g.uplink.Index))
}

// detached detaches a program and leaves its pin.
func detached(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// TestGuardRemoved: a guard that another program has removed is found, and put back.
func TestGuardRemoved(t *testing.T) {
	for name, remove := range map[string]func(*guarded) error{
		"its link is detached": func(g *guarded) error { return detached(g.guardPin()) },
		"its pin is removed":   func(g *guarded) error { return os.Remove(g.guardPin()) },
		"its table is removed": func(g *guarded) error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			conn.DelTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: fmt.Sprintf("podid_guard_%d", g.uplink.Index)})
			return conn.Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t)
			if _, err := os.Stat(g.guardPin()); err != nil {
				t.Skip("tcx needs Linux 6.6")
			}
			g.do(func() error { return remove(g) })
			g.do(func() error { g.guards.check(); return nil })
			if g.last == nil {
				t.Error("not found")
			}
			t.Log(g.last)
			// The kernel takes a link without a pin off a little later. Until then the guard cannot be put
			// back, and the holder retries.
			err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
				var failed error
				err := g.node.Do(func() error { failed = g.guards.guard([]uplinks.Uplink{g.uplink}); return nil })
				return failed == nil, err
			})
			if err != nil {
				t.Error(err)
			}
			g.do(func() error { g.guards.check(); return nil })
			if g.last != nil {
				t.Errorf("not put back: %v", g.last)
			}
		})
	}
}

// TestProgramsRemoved: once another program has removed connect4, or the pods' control group was
// made again, the holder ends with the reason, and the next one puts all in place.
func TestProgramsRemoved(t *testing.T) {
	for name, remove := range map[string]func(*guarded) error{
		"the link is detached": func(g *guarded) error { return detached(filepath.Join(g.pins, "connect4")) },
		"the pin is removed":   func(g *guarded) error { return os.Remove(filepath.Join(g.pins, "connect4")) },
		"the group is new":     func(g *guarded) error { return errors.Join(os.Remove(g.kubepods), os.Mkdir(g.kubepods, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t)
			g.do(func() error { return remove(g) })
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := g.node.Do(func() error {
				g.guards.check()
				return g.guards.run(ctx, testr.New(t))
			})
			if err == nil || !strings.Contains(err.Error(), "removed the programs") {
				t.Fatalf("the holder ends with %v; last check: %v", err, g.last)
			}
			t.Log(err)
			again := program.Config{Metadata: netip.MustParseAddrPort("169.254.169.254:80")}
			g.do(func() error {
				programs, err := program.Attach(again, g.kubepods, g.pins)
				if err != nil {
					return err
				}
				defer programs.Close()
				// The kernel takes a link without a pin off a little later.
				return wait.PollUntilContextTimeout(ctx, time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
					return programs.Check() == nil, nil
				})
			})
		})
	}
}
