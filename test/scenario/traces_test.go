// What podid has put on the nodes.
package scenario_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/kubepods"
	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
)

// traces returns what is on the nodes, each with its number: processes, programs, pins, tables and
// addresses of podid, and listeners in pods. It waits until the pods of earlier stories are gone.
func (s *story) traces() map[string]int {
	s.Helper()
	s.none(&corev1.NamespaceList{}, "earlier stories have ended", func(o client.Object) bool { return o.GetDeletionTimestamp() != nil })
	var last map[string]int
	s.awaitTraces("what is on the nodes does not change", func(now map[string]int) (diff string) {
		diff, last = cmp.Diff(last, now), now
		return diff
	})
	return last
}

// sameTraces waits until the traces are the ones that they were: what is of a pod that has ended
// goes a little later.
func (s *story) sameTraces(before map[string]int) {
	s.Helper()
	s.awaitTraces("the nodes are as before", func(now map[string]int) string { return cmp.Diff(before, now) })
}

// awaitTraces reads the traces until there is nothing wrong with them. Where interfaces and pods
// come and go, reading them can fail.
func (s *story) awaitTraces(what string, wrong func(map[string]int) string) {
	s.Helper()
	ctx, cancel := s.soon(what)
	defer cancel()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := s.readTraces()
		missing := fmt.Sprint(err)
		if err == nil {
			missing = wrong(now)
		}
		if missing == "" {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			s.Fatalf("%v: what podid has put on the nodes (-before +now):\n%s", context.Cause(ctx), missing)
		}
	}
}

func (s *story) readTraces() (map[string]int, error) {
	status, err := s.sandbox.Status(s.Context())
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	for _, c := range status.Components {
		if !strings.HasPrefix(c.Name, "node-") {
			continue
		}
		running, err := s.running(c.Name)
		if err != nil {
			return nil, err
		}
		n := &nodeTraces{root: fmt.Sprintf("/proc/%d/root", c.PID), found: map[string]int{}}
		n.found["agents"], n.found["holders"] = len(running[c.Name][agentPart]), len(running[c.Name][holderPart])
		if err := n.collect(netns.Namespace(network.Prefix(s.sandbox.Layout().Name) + c.Name)); err != nil {
			return nil, fmt.Errorf("read what is on %s: %w", c.Name, err)
		}
		for what, count := range n.found {
			all[c.Name+": "+what] = count
		}
	}
	return all, nil
}

// nodeTraces are the traces on one node, whose files are below root.
type nodeTraces struct {
	root  string
	found map[string]int
}

func (n *nodeTraces) collect(node netns.Namespace) error {
	return errors.Join(n.pins(), n.programs(), n.listeners(), node.Do(func() error {
		return errors.Join(n.uplink(), n.tables(), n.addresses())
	}))
}

// pins counts what is pinned, and the published listeners.
func (n *nodeTraces) pins() error {
	folder := filepath.Join(n.root, "sys/fs/bpf/podid")
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		n.found["pin "+e.Name()]++
	}
	endpoints, err := ebpf.LoadPinnedMap(filepath.Join(folder, "endpoints"), nil)
	if err != nil {
		return err
	}
	defer func() { _ = endpoints.Close() }()
	var cookie, at uint64
	for all := endpoints.Iterate(); all.Next(&cookie, &at); {
		n.found["published listeners"]++
	}
	return nil
}

// programs counts those for connects of pods, on the pods' control group and at the top.
func (n *nodeTraces) programs() error {
	top := filepath.Join(n.root, "sys/fs/cgroup")
	folder, err := kubepods.Find(os.DirFS(top))
	if errors.Is(err, kubepods.ErrVersion1) {
		return nil
	}
	if err != nil {
		return err
	}
	for what, group := range map[string]string{"pods": folder, "all": filepath.Dir(folder)} {
		for name, at := range map[string]ebpf.AttachType{"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect} {
			f, err := os.Open(filepath.Join(top, group))
			if err != nil {
				return err
			}
			attached, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at})
			_ = f.Close()
			if err != nil {
				return fmt.Errorf("list programs of %s: %w", group, err)
			}
			n.found[name+" of "+what] = len(attached.Programs)
		}
	}
	return nil
}

// uplink counts the programs and filters at the egress of eth0.
func (n *nodeTraces) uplink() error {
	on, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	attached, err := link.QueryPrograms(link.QueryOptions{Target: on.Attrs().Index, Attach: ebpf.AttachTCXEgress})
	switch {
	case err == nil:
		n.found["programs at eth0"] = len(attached.Programs)
	case !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.EINVAL): // before Linux 6.6
		return fmt.Errorf("list programs of eth0: %w", err)
	}
	filters, err := netlink.FilterList(on, netlink.HANDLE_MIN_EGRESS)
	n.found["filters at eth0"] = len(filters)
	return err
}

// tables counts the rules of podid's tables.
func (n *nodeTraces) tables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, "podid") {
			n.found["table "+t.Name]++
		}
	}
	for _, c := range chains {
		if !strings.HasPrefix(c.Table.Name, "podid") {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return err
		}
		n.found["rules of "+c.Table.Name+" "+c.Name] = len(rules)
	}
	return nil
}

func (n *nodeTraces) addresses() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addresses, err := netlink.AddrList(lo, unix.AF_INET)
	for _, a := range addresses {
		n.found["address "+a.IP.String()]++
	}
	return err
}

// listeners counts the network namespaces of pods by how many listeners they have on loopback
// addresses. The port may have changed: a holder takes the next one while an agent has the old
// listener.
func (n *nodeTraces) listeners() error {
	folder := filepath.Join(n.root, "run/netns")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		pod := netns.Namespace(filepath.Join("../..", folder, e.Name())) // its name is a path below netns.Dir
		var sockets []*netlink.Socket
		err := pod.Do(func() (err error) { sockets, err = netlink.SocketDiagTCP(unix.AF_INET); return err })
		if errors.Is(err, os.ErrNotExist) {
			continue // the pod has ended
		}
		if err != nil {
			return err
		}
		listening := 0
		for _, socket := range sockets {
			if socket.State == netlink.TCP_LISTEN && socket.ID.Source.IsLoopback() {
				listening++
			}
		}
		n.found[fmt.Sprintf("pods' networks with %d listeners", listening)]++
	}
	return nil
}
