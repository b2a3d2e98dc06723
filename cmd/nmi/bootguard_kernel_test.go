// A node that has just booted: its pods are there before the agent.

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// guards runs nmi --boot-guard, which must say something.
func (n *planeNode) guards(says string, flags ...string) {
	n.t.Helper()
	p := n.start(append(append(n.flags(), "--boot-guard", "--node="), flags...)...)
	if err := p.ends(); err != nil {
		n.t.Fatalf("%v\n%s", err, p.log)
	}
	p.says(says)
}

// ofPods returns which packets of pods have arrived at the metadata service.
func (n *planeNode) ofPods() []netip.Addr {
	n.t.Helper()
	return slices.DeleteFunc(n.arrived(0), func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.4") })
}

// atTop returns how many programs for connects are on the topmost control group.
func (n *planeNode) atTop() (count int) {
	n.t.Helper()
	top, err := os.Open(n.top)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = top.Close() }()
	for _, at := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect} {
		attached, err := link.QueryPrograms(link.QueryOptions{Target: int(top.Fd()), Attach: at})
		if err != nil {
			n.t.Fatal(err)
		}
		count += len(attached.Programs)
	}
	return count
}

// TestBootGuardInPods: after a boot, pods that start before the agent are refused on each data
// plane, also before there is a control group of pods. Processes of the node keep the metadata
// service. The agent takes over what the guard has put in place, and until then pods stay refused.
func TestBootGuardInPods(t *testing.T) {
	for plane := range planes() {
		t.Run(plane, func(t *testing.T) {
			n := newPlaneNode(t, plane)
			for _, group := range []string{n.groupWeb, n.groupAPI} { // the kubelet makes them
				removeUpTo(t, group, n.top)
			}
			n.guards("put the programs in place", "--capture=require")
			if n.atTop() != 2 {
				t.Errorf("there are %d programs at the top", n.atTop())
			}
			for _, group := range []string{n.groupWeb, n.groupAPI} {
				if err := os.MkdirAll(group, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time after another run of the guard
				for in, group := range map[string]string{"web": n.groupWeb, "nested": n.groupWeb, "api": n.groupAPI} {
					if got := n.ask(map[string]*testnet.Net{"web": n.web, "nested": n.nested, "api": n.api}[in], group, service+tokenURL); !strings.Contains(got, refusedAt) {
						t.Errorf("before the agent, %s got %s", in, got)
					}
				}
				if got := n.ask(n.node.node, n.system, service+"/metadata/instance"); !strings.HasPrefix(got, "200 ") {
					t.Errorf("before the agent, a process of the node got %s", got)
				}
				n.guards("put the programs in place", "--capture=require")
			}

			agent := n.start(append(n.flags(), "--capture=require")...)
			testenv.Eventually(t, "web gets its token", func() string {
				if err, ended := agent.ended(0); ended {
					t.Fatalf("the agent ended: %v", err)
				}
				got := n.ask(n.web, n.groupWeb, service+tokenURL)
				if m := meaning(strings.TrimPrefix(got, "200 ")); m != ofWeb && !strings.Contains(got, refusedAt) && !strings.HasPrefix(got, "503 ") {
					t.Fatalf("while the agent starts, web got %s", got)
				}
				if !strings.HasPrefix(got, "200 ") {
					return got
				}
				return ""
			})
			n.probe("/readyz", 200, "ok")
			if n.atTop() != 0 {
				t.Errorf("with the agent, there are %d programs at the top", n.atTop())
			}
			n.guards("left the rules to the agent", "--capture=require")
			agent.stop(syscall.SIGKILL)
			n.guards("left the programs that an agent has put in place", "--capture=require")
			if from := n.ofPods(); len(from) != 0 {
				t.Errorf("packets of %v arrived at the metadata service", from)
			}
		})
	}
}

// removeUpTo removes a control group and those above it, below another.
func removeUpTo(t *testing.T, group, top string) {
	t.Helper()
	for ; group != top; group = filepath.Dir(group) {
		if err := os.Remove(group); err != nil && !os.IsExist(err) && !strings.Contains(err.Error(), syscall.EBUSY.Error()) && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

// TestBootGuardWithoutGroups: on a node with control groups of version 1 only, prefer guards by the
// rules alone, and require fails, so that the kubelet does not start.
func TestBootGuardWithoutGroups(t *testing.T) {
	n := newPlaneNode(t, "routed")
	version1 := t.TempDir()
	if err := os.Mkdir(filepath.Join(version1, "memory"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.more = []string{"--cgroup-dir=" + version1}
	n.guards("pods are refused by the rules alone", "--capture=prefer")
	if got := n.ask(n.web, n.groupWeb, service+tokenURL); !strings.Contains(got, refusedAt) {
		t.Errorf("the pod got %s", got)
	}
	p := n.start(append(n.flags(), "--boot-guard", "--capture=require")...)
	if err := p.ends(); err == nil {
		t.Error("require guards without control groups of version 2")
	}
	p.says("control groups v1 only")
}
