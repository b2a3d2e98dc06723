package uplinks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// TestWatch: an uplink that appears or gets a route is reported at once, and one that is gone no
// longer. A guard that fails is called again.
func TestWatch(t *testing.T) {
	testnet.Require(t)
	node, outside := testnet.New(t), testnet.New(t)
	testnet.Veth(t, node, "eth0", outside, "eth0")
	node.Address(t, "eth0", "10.0.0.1/24")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	reports := make(chan []string)
	failed := false
	go func() {
		defer close(ended)
		_ = node.Do(func() error {
			Watch(ctx, []netip.Addr{netip.MustParseAddr("169.254.169.254")}, func(all []Uplink) error {
				if !failed {
					failed = true
					return errors.New("not yet")
				}
				names := []string{}
				for _, u := range all {
					names = append(names, u.Name)
					if !u.Ethernet {
						t.Errorf("%s has no Ethernet header", u.Name)
					}
				}
				select {
				case reports <- names:
				case <-ctx.Done():
				}
				return nil
			}, logr.Discard())
			return nil
		})
	}()
	defer func() { cancel(); <-ended }()
	expect := func(want ...string) {
		t.Helper()
		for deadline := time.After(20 * time.Second); ; {
			select {
			case got := <-reports:
				if slices.Equal(got, want) {
					return
				}
			case <-deadline:
				t.Fatalf("uplinks %q were not reported", want)
			}
		}
	}
	expect()
	node.Route(t, "0.0.0.0/0", "10.0.0.2", "eth0")
	expect("eth0")
	testnet.Veth(t, node, "eth1", outside, "eth1")
	node.Address(t, "eth1", "10.0.1.1/24")
	node.Route(t, "169.254.0.0/16", "10.0.1.2", "eth1")
	expect("eth0", "eth1")
	if err := node.Do(func() error {
		eth1, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.LinkDel(eth1)
	}); err != nil {
		t.Fatal(err)
	}
	expect("eth0")
}

// TestSubscriptionEnds: of a watch that has ended with an error, no socket stays.
func TestSubscriptionEnds(t *testing.T) {
	testnet.Require(t)
	node, broken := testnet.New(t), errors.New("broken")
	watch := func() {
		err := node.Do(func() error { return watchOnce(t.Context(), nil, func([]Uplink) error { return broken }) })
		if !errors.Is(err, broken) {
			t.Error(err)
		}
	}
	sockets := func() (n int) {
		files, err := filepath.Glob("/proc/self/fd/*")
		for _, file := range files {
			if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		if err != nil {
			t.Error(err)
		}
		return n
	}
	before := sockets()
	for range 10 {
		watch()
	}
	testenv.Eventually(t, "all sockets closed", func() string {
		if n := sockets(); n > before {
			return fmt.Sprintf("%d sockets, %d before", n, before)
		}
		return ""
	})
}
