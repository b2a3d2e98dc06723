// Every way from a pod to the metadata service, on each data plane.

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testnet"
)

// waysIn are connections of one process, and what they must lead to.
type waysIn struct {
	who    string
	caller hooktest.Caller
	ways   []string
	want   string
	except map[string]string // by way
	before func()
}

// TestWaysIn: on each data plane, a pod gets its own token in every way to connect, or is refused,
// and no packet reaches the metadata service. Without NMI they do. The results are in the log.
func TestWaysIn(t *testing.T) {
	for plane := range planes() {
		t.Run(plane, func(t *testing.T) {
			n := newPlaneNode(t, plane)
			n.open(t)
			if plane == "bypass" { // in two processes
				both := newSplitOn(n.inPods)
				folder := both.pair()
				both.startHolder(folder, "--capture=require")
				both.startAgent(folder, "--capture=require")
			} else {
				n.start(append(n.flags(), "--capture=require")...)
			}
			n.probe("/readyz", 200, "ok")
			n.cache(t)
			before := len(n.arrived(0))
			for _, w := range n.table(plane) {
				if w.before != nil {
					w.before()
				}
				got := n.tries(t, w)
				from := n.arrived(before)
				before += len(from)
				w.check(t, plane, got, len(from))
			}
		})
	}
}

// TestStaysClosed: where packets pass by the redirect, the way to the metadata service stays closed
// with --capture=prefer, too, when another program removes what captures inside pods.
func TestStaysClosed(t *testing.T) {
	n := newPlaneNode(t, "bypass")
	n.open(t)
	n.kube.apply("nodes", "v1", "Node", "node-1", nil, map[string]any{v1.HostRoutingLabel: "true"})
	p := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	n.cache(t)
	before := len(n.arrived(0))
	if err := os.Remove(filepath.Join(n.pins, "connect4")); err != nil {
		t.Fatal(err)
	}
	testnet.Veth(t, n.node.node, "new", testnet.New(t), "new") // NMI checks the programs after such a change
	p.says("cannot capture requests inside pods, retrying")
	web := hooktest.Caller{In: n.web, Group: n.groupWeb}
	waysIn{who: "programs removed", want: hooktest.Unanswered, ways: []string{hooktest.Briefly}}.check(t, "bypass",
		n.tries(t, waysIn{caller: web, ways: []string{hooktest.Briefly}}), len(n.arrived(before)))
	n.probe("/readyz", 503, "dataplane")
}

// open fails the test unless a pod reaches the metadata service while no agent runs.
func (n *planeNode) open(t *testing.T) {
	t.Helper()
	for _, in := range []hooktest.Caller{{In: n.web, Group: n.groupWeb}, {In: n.nested, Group: n.groupWeb}} {
		for way, want := range map[string]string{"connect": ofNode, "SOCK_RAW": hooktest.Sent, "AF_PACKET": hooktest.Sent} {
			before := len(n.arrived(0))
			got := n.tries(t, waysIn{caller: in, ways: []string{way}})[way]
			if from := n.arrived(before); got != want || len(from) == 0 {
				t.Fatalf("without an agent: %s: %s, %d packets arrived", way, got, len(from))
			}
		}
	}
}

// cache lets the agent get the pods' tokens, so that it need not ask for them later.
func (n *planeNode) cache(t *testing.T) {
	t.Helper()
	for group, want := range map[string]string{n.groupWeb: ofWeb, n.groupAPI: ofAPI} {
		w := waysIn{caller: hooktest.Caller{In: n.web, Group: group}, ways: []string{"connect"}}
		if got := n.tries(t, w)["connect"]; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}

// tries connects in each way and returns what the answers mean.
func (n *planeNode) tries(t *testing.T, w waysIn) map[string]string {
	t.Helper()
	w.caller.Target = tokenURL
	got := w.caller.Ask(t, w.ways...)
	for way, answer := range got {
		// A packet socket gets an error at once when its packet is dropped on the same interface.
		if got[way] = meaning(answer); answer == syscall.ENOBUFS.Error() {
			got[way] = hooktest.Sent
		}
	}
	return got
}

// check compares the results, and logs them by what they are.
func (w waysIn) check(t *testing.T, plane string, got map[string]string, packets int) {
	t.Helper()
	by := map[string][]string{}
	for _, way := range w.ways {
		want := w.want
		if other, ok := w.except[way]; ok {
			want = other
		}
		if got[way] != want {
			t.Errorf("%s, %s, %s: %q, want %q", plane, w.who, way, got[way], want)
		}
		by[got[way]] = append(by[got[way]], way)
	}
	if packets > 0 {
		t.Errorf("%s, %s: %d packets arrived at the metadata service", plane, w.who, packets)
	}
	for result, ways := range by {
		t.Logf("%s | %s | %s, %d packets | %s", plane, w.who, result, packets, strings.Join(ways, "; "))
	}
}

// table is all ways in.
func (n *planeNode) table(plane string) []waysIn {
	raw := append(hooktest.Raw(), hooktest.XDP)
	slices.Sort(raw)
	connect := []string{"connect", "IPv4-mapped", "io_uring", "fast open by sendto, again"}
	imitating := hooktest.Group(n.t, n.groupWeb, "pod"+uidAPI, "app") // a pod may name its groups as it likes
	bound := map[string]string{"bound device": syscall.EPERM.Error()}
	web := hooktest.Caller{In: n.web, Group: n.groupWeb}
	api, node, nested, group := web, web, web, web
	api.Group, node.Group, nested.In, group.Group = n.groupAPI, n.system, n.nested, imitating
	plain, users, groups := web, web, web
	plain.Unprivileged, users.OwnUsers, groups.OwnGroups = true, true, true
	nodes := "PID-128"
	if plane == "bypass" { // no way to the redirect
		nodes = hooktest.Unanswered
	}
	return []waysIn{
		{who: "pod", caller: web, ways: hooktest.Ways(), want: ofWeb},
		{who: "pod without capabilities", caller: plain, ways: hooktest.Ways(), want: ofWeb, except: bound},
		{who: "own control group namespace", caller: groups, ways: hooktest.Ways(), want: ofWeb},
		{who: "own user namespace", caller: users, ways: hooktest.Ways(), want: ofWeb, except: bound},
		{who: "IPv6", caller: web, ways: hooktest.Ways6(), want: syscall.ENETUNREACH.Error()},
		{who: "raw", caller: web, ways: raw, want: hooktest.Sent},
		{who: "nested control group", caller: group, ways: connect, want: ofWeb},
		{who: "another pod's control group", caller: api, ways: connect, want: ofAPI},
		{who: "another pod's control group, raw", caller: api, ways: raw, want: hooktest.Sent},
		{who: "nested network namespace", caller: nested, ways: hooktest.Ways(), want: refusedAt},
		{who: "nested network namespace, raw", caller: nested, ways: raw, want: hooktest.Sent},
		{who: "the node's control group", caller: node, ways: []string{hooktest.Briefly}, want: nodes},
		{who: "default-deny egress", caller: web, ways: hooktest.Ways(), want: ofWeb, before: n.denyEgress},
		{who: "default-deny egress, the node's control group", caller: node, ways: []string{hooktest.Briefly}, want: hooktest.Unanswered},
		{who: "service mesh", caller: web, ways: hooktest.Ways(), want: ofWeb, before: n.mesh},
		{who: "service mesh, the node's control group", caller: node, ways: []string{hooktest.Briefly}, want: refusedAt},
	}
}
