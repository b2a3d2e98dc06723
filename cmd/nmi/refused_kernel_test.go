// Nodes whose security module refuses nftables rules.

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	v1 "github.com/podid-io/podid/api/v1"
)

// refuseVariable makes the program one that may not use nftables, whatever its capabilities. It is
// another program to run so, or a dash.
const refuseVariable = "PODID_TEST_REFUSE_NFTABLES"

// refuseNFTables makes the kernel refuse the process every socket of netfilter with EPERM.
// It becomes the program, unless that is a dash.
func refuseNFTables(program string) {
	const number, domain, protocol = 0, 16, 32 // where seccomp_data has the call and its arguments
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	end := func(with uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with} }
	code := []unix.SockFilter{
		load(number), unless(unix.SYS_SOCKET, 5),
		load(domain), unless(unix.AF_NETLINK, 3),
		load(protocol), unless(unix.NETLINK_NETFILTER, 1),
		end(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
		end(unix.SECCOMP_RET_ALLOW),
	}
	filter := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter))); errno != 0 {
		panic(errno)
	}
	if program != "-" {
		panic(syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ()))
	}
}

// refusing returns a node that refuses nftables rules, with a label for its host routing, and the
// control group of a pod.
func refusing(t *testing.T, label string) (n *inPods, group string) {
	n = newInPods(t)
	n.refuses = true
	n.kube.apply("nodes", "v1", "Node", "node-1", nil, map[string]any{v1.HostRoutingLabel: label})
	group = n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.namespaces.Add("web", n.web)
	return n, group
}

// TestCaptureRulesRefused: where a security module refuses the redirect, an agent that captures
// inside pods is ready without it. Another one takes its place, although it does not find the
// first.
func TestCaptureRulesRefused(t *testing.T) {
	for _, way := range []string{"prefer", "require"} {
		t.Run(way, func(t *testing.T) {
			n, group := refusing(t, "true")
			flags := append(n.flags(), "--capture="+way)
			first := n.start(flags...)
			n.probe("/readyz", 200, "ok")
			n.active()
			n.capturing("1")
			first.says("serving pods inside their own network only")
			first.says("use a node pool without it, or capture inside pods")
			second := n.start(flags...)
			second.says("a port is in use")
			if got := n.ask(n.web, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
				t.Errorf("beside another agent: %s", got)
			}
			first.stop(syscall.SIGTERM)
			second.says("serving pods inside their own network only")
			n.probe("/readyz", 200, "ok")
			if got := n.ask(n.web, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
				t.Errorf("of the next agent: %s", got)
			}
			if got := strings.Count(first.log.String(), "serving pods inside their own network only"); got != 1 {
				t.Errorf("said %d times", got)
			}
		})
	}
}

// TestCaptureRulesNeeded: an agent is not ready without the redirect where pods whose network it
// does not know yet would pass, nor with the redirect alone.
func TestCaptureRulesNeeded(t *testing.T) {
	n, _ := refusing(t, "false")
	p := n.start(n.flags()...)
	n.capturing("1")
	n.probe("/readyz", 503, "security module")
	p.stop(syscall.SIGKILL)
	n.start(append(n.flags(), "--capture=wire")...)
	n.probe("/readyz", 503, "security module")
}

// TestCaptureRulesRefusedHolder: an agent learns from its holder that the redirect is refused.
func TestCaptureRulesRefusedHolder(t *testing.T) {
	n := newSplit(t)
	n.refuses = true
	n.kube.apply("nodes", "v1", "Node", "node-1", nil, map[string]any{v1.HostRoutingLabel: "true"})
	folder := n.pair()
	agent := n.startAgent(folder)
	n.startHolder(folder)
	n.probe("/readyz", 200, "ok")
	agent.says("serving pods inside their own network only")
	n.asks("a token", "200 ")
}
