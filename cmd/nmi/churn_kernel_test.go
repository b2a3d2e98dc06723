package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// passing is how many pods come and go.
const passing = 8

// TestPodsLeaveNothing: pods come, get a token and go. The agent keeps no descriptor and no
// goroutine of them, the holder no descriptor, and their network namespaces end.
func TestPodsLeaveNothing(t *testing.T) {
	n := newSplit(t)
	folder := n.pair()
	agent, holder := n.startAgent(folder), n.startHolder(folder)
	n.probe("/readyz", 200, "ok")
	n.capturing("1")
	n.asks("a pod that stays", "200 ")
	before := n.kept(agent, holder)
	for i := range passing {
		name := fmt.Sprint("passing-", i)
		t.Run(name, func(t *testing.T) { // at its end, the test lets go of the namespace
			pod := testnet.New(t)
			testnet.Veth(t, n.node.node, name, pod, "eth0")
			uid := fmt.Sprintf("00000000-0000-4000-8000-0000000001%02d", i)
			group := n.bound(name, uid, map[string]any{"aadpodidbinding": name})
			n.grant(name)
			n.namespaces.Add(name, pod)
			testenv.Eventually(t, "a token", func() string {
				if got := n.ask(pod, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
					return got
				}
				return ""
			})
			n.namespaces.Remove(name)
			n.kube.remove("pods", name)
		})
	}
	testenv.Eventually(t, "no more than before the pods", func() string {
		now := n.kept(agent, holder)
		if now.agentFiles > before.agentFiles || now.holderFiles > before.holderFiles || now.goroutines > before.goroutines || now.namespaces > 0 {
			return fmt.Sprintf("%+v, before the pods %+v", now, before)
		}
		return ""
	})
	agent.stop(syscall.SIGTERM)
	holder.stop(syscall.SIGTERM)
}

// kept is what the programs have open, and how many network namespaces of passing pods exist.
type kept struct {
	agentFiles, holderFiles, goroutines, namespaces int // goroutines of the agent
}

func (n *split) kept(agent, holder *process) (k kept) {
	n.t.Helper()
	k.agentFiles, k.holderFiles = n.filesOf(agent), n.filesOf(holder)
	_, metrics, err := n.get(n.node.node, "127.0.0.1:9090", "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(metrics, "\ngo_goroutines ")
	number, _, _ := strings.Cut(rest, "\n")
	if k.goroutines, err = strconv.Atoi(number); err != nil {
		n.t.Fatal(err)
	}
	err = n.node.node.Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, "passing-") { // the kernel removes it with the namespace
				k.namespaces++
			}
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return k
}

func (n *split) filesOf(p *process) int {
	n.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(files)
}
