// Tricks at the agent's listeners in pods.

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

const victim = "10.244.0.2"

// listens returns a listener in a network namespace, until the test ends.
func listens(t *testing.T, in *testnet.Net, address string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := in.Do(func() (err error) { l, err = net.Listen("tcp4", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// forwards makes the pod web forward its port 8080 to a port of its loopback device.
func (n *planeNode) forwards(port uint16) {
	n.t.Helper()
	n.web.Sysctl(n.t, "ipv4/conf/eth0/route_localnet", "1")
	table := &nftables.Table{Name: "forward", Family: nftables.TableFamilyIPv4}
	chain := &nftables.Chain{
		Name: "ports", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	}
	changeTables(n.t, n.web, func(c *nftables.Conn) {
		c.AddTable(table)
		c.AddChain(chain)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, 8080)},
			&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, port)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.AF_INET, RegAddrMin: 1, RegProtoMin: 2},
		}})
	})
}

// TestListener: a pod that uses the listener's port itself gets its token by the next one. No
// other caller gets a token there, even if the pod forwards connections to it.
func TestListener(t *testing.T) {
	n := newPlaneNode(t, "routed")
	listens(t, n.web, "127.0.0.1:64579") // the listener has the next port
	n.start(append(n.flags(), "--capture=require")...)
	n.probe("/readyz", 200, "ok")
	n.forwards(64580)
	for _, c := range []struct {
		who       string
		in        *testnet.Net
		group, at string
		want      string
	}{
		{"the pod", n.web, n.groupWeb, metadataService, ofWeb},
		{"the pod at the listener", n.web, n.groupWeb, "127.0.0.1:64580", ofWeb},
		{"another pod's process in the pod's network, at the listener", n.web, n.groupAPI, "127.0.0.1:64580", ofAPI},
		{"the node's root in the pod's network, at the listener", n.web, n.system, "127.0.0.1:64580", "PID-127"},
		{"another pod at the pod's address", n.api, n.groupAPI, victim + ":64579", refusedAt},
		{"another pod at the pod's address and the listener's port", n.api, n.groupAPI, victim + ":64580", refusedAt},
		{"another pod at a port that the pod forwards", n.api, n.groupAPI, victim + ":8080", "PID-127"},
		{"the node at the pod's address", n.node.node, n.system, victim + ":64580", refusedAt},
		{"the node at a port that the pod forwards", n.node.node, n.system, victim + ":8080", "PID-127"},
	} {
		_, answer, found := strings.Cut(n.ask(c.in, c.group, "http://"+c.at+tokenURL), " ")
		got := meaning(answer)
		if strings.Contains(answer, refusedAt) {
			got = refusedAt
		}
		t.Logf("%s | %s", c.who, got)
		if !found || got != c.want {
			t.Errorf("%s: %s, want %s", c.who, got, c.want)
		}
	}
	if from := n.arrived(0); len(from) > 0 {
		t.Errorf("packets arrived at the metadata service from %v", from)
	}
}

// TestNoPort: where a pod uses all ports for the listener, it is refused, and the log says why.
func TestNoPort(t *testing.T) {
	n := newPlaneNode(t, "routed")
	for port := 64579; port < 64579+8; port++ {
		listens(t, n.web, fmt.Sprint("127.0.0.1:", port))
	}
	p := n.start(append(n.flags(), "--capture=require")...)
	p.says("choose another port, which pods do not use")
	if got := n.ask(n.web, n.groupWeb, service+tokenURL); !strings.Contains(got, refusedAt) {
		t.Error(got)
	}
}

// TestNoFileSystem: without a BPF file system, NMI is not ready and says what to do.
func TestNoFileSystem(t *testing.T) {
	n := newInPods(t)
	n.start(append(n.flags(), "--capture=require", "--bpf-dir="+t.TempDir()+"/podid")...)
	n.probe("/readyz", 503, "mount -t bpf bpf /sys/fs/bpf")
}

// TestListenersRemoved: listeners that another program removes from the programs' map are published
// again.
func TestListenersRemoved(t *testing.T) {
	n := newInPods(t)
	group := n.bound("web", uidWeb, map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.namespaces.Add("web", n.web)
	n.start(append(n.flags(), "--capture=require")...)
	n.probe("/readyz", 200, "ok")
	endpoints, err := ebpf.LoadPinnedMap(n.pins+"/endpoints", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = endpoints.Close() }()
	var cookie, value uint64
	if all := endpoints.Iterate(); !all.Next(&cookie, &value) || endpoints.Delete(cookie) != nil {
		t.Fatal("no listener is published")
	}
	testenv.Eventually(t, "published again", func() string {
		if got := n.ask(n.web, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
			return got
		}
		return ""
	})
}

// TestDescriptors: at the limit of open files, NMI says so, a new pod is refused, and gets its
// answer once there is room. Pods that come and go fast leave no descriptor.
func TestDescriptors(t *testing.T) {
	n := newPlaneNode(t, "routed")
	p := n.start(append(n.flags(), "--capture=require")...)
	n.probe("/readyz", 200, "ok")
	n.cache(t)
	packets := len(n.arrived(0))
	open := func() int {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := open()
	for i := range 50 {
		n.namespaces.Add(fmt.Sprint("fast-", i), n.nested)
		n.namespaces.Remove(fmt.Sprint("fast-", i))
	}
	testenv.Eventually(t, "descriptors closed", func() string {
		if now := open(); now > before {
			return fmt.Sprintf("%d descriptors, %d before", now, before)
		}
		return ""
	})
	limit := func(files uint64) (old unix.Rlimit) {
		t.Helper()
		err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &old)
		if err == nil {
			err = unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: old.Max}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return old
	}
	old := limit(3)
	late := hooktest.Caller{In: n.nested, Group: n.groupWeb}
	n.namespaces.Add("late", n.nested)
	p.says("raise the limit of open files")
	if got := n.tries(t, waysIn{caller: late, ways: []string{"connect"}})["connect"]; got != refusedAt {
		t.Errorf("at the limit: %s", got)
	}
	limit(old.Cur)
	testenv.Eventually(t, "served", func() string {
		if got := n.tries(t, waysIn{caller: late, ways: []string{"connect"}})["connect"]; got != ofWeb {
			return got
		}
		return ""
	})
	if from := n.arrived(packets); len(from) > 0 {
		t.Errorf("packets arrived at the metadata service from %v", from)
	}
}
