// Clients that open connections to every port of the agent and misuse them.

package main

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/testnet"
)

const (
	// memoryLimit is the chart's, in MiB.
	memoryLimit = 256
	// maxSockets is what one pod and the processes of the host may have (docs/nmi.md, Ports), plus
	// as many as the agent needs itself.
	maxSockets = 2*(256+8+8) + 256 + 8 + 64
	floodTime  = 8 * time.Second
	floodKeep  = 3000
)

// startBuilt runs nmi as built for a release, because the test binary may be instrumented.
func (n *node) startBuilt(args ...string) *process {
	n.t.Helper()
	binary := filepath.Join(n.t.TempDir(), "nmi")
	build := exec.CommandContext(n.t.Context(), "go", "build", "-trimpath", "-o", binary, ".")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		n.t.Fatalf("build nmi: %v\n%s", err, out)
	}
	return n.startProgram(binary, args...)
}

// TestFlood floods every open port of nmi: those of all addresses from a pod, those of loopback
// from the host. Meanwhile a neighbor gets its tokens, the probes and metrics are served, and the
// agent stays within the chart's memory limit.
func TestFlood(t *testing.T) {
	n := newNode(t)
	n.pod("web", "10.244.0.2", "Running")
	n.pod("api", "10.244.1.2", "Running")
	n.grant("web")
	n.grant("api")
	p := n.startBuilt("--enableProfile")
	n.probe("/readyz", 200, "ok")
	n.want(n.api, tokenURL, 200, "access_token")

	pid := p.cmd.Process.Pid
	var stops []func() int
	var names []string
	for _, l := range testnet.Listeners(t, pid) {
		from, to := n.node, l
		if address, ok := l.(*net.TCPAddr); ok && address.IP.IsUnspecified() {
			from, to = n.web, &net.TCPAddr{IP: net.IPv4(10, 244, 0, 1), Port: address.Port}
		} else if ok && address.IP.IsLinkLocalUnicast() { // through the redirect
			from, to = n.web, &net.TCPAddr{IP: net.IPv4(169, 254, 169, 254), Port: 80}
		}
		names = append(names, fmt.Sprintf("%s (%s)", to, l))
		stops = append(stops, from.Flood(to, floodKeep))
	}
	if len(stops) < 5 { // pods, host, probes, metrics, profiles
		t.Errorf("only %d ports are open: %v", len(stops), names)
	}
	n.worksIn(t, floodTime)
	sockets, memory := testnet.Sockets(t, pid), testnet.MostMemory(t, pid)
	for i, stop := range stops {
		connections := stop()
		t.Logf("%s: %d connections", names[i], connections)
		if connections == 0 {
			t.Errorf("%s was not flooded", names[i])
		}
	}
	t.Logf("%d sockets open, %d MiB at the most", sockets, memory)
	if sockets > maxSockets || memory > memoryLimit {
		t.Errorf("%d sockets open and %d MiB, want %d and %d at most", sockets, memory, maxSockets, memoryLimit)
	}
	p.stop(syscall.SIGTERM)
}

// worksIn makes a neighbor, the kubelet and Prometheus send requests for a time.
func (n *node) worksIn(t *testing.T, during time.Duration) {
	t.Helper()
	var took []time.Duration
	slowest := map[string]time.Duration{}
	for end := time.Now().Add(during); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		began := time.Now()
		status, body, err := n.get(n.api, metadataService, tokenURL)
		if err != nil || status != 200 {
			t.Fatalf("the neighbor gets %d %s %v", status, body, err)
		}
		took = append(took, time.Since(began))
		if len(took)%25 != 0 {
			continue
		}
		for target, address := range map[string]string{"/readyz": "10.244.0.1:8080", "/metrics": "10.244.0.1:9090"} {
			began := time.Now()
			status, body, err := n.get(n.api, address, target)
			if err != nil || status != 200 {
				t.Errorf("%s: %d %.80s %v", target, status, body, err)
			}
			slowest[target] = max(slowest[target], time.Since(began))
		}
	}
	slices.Sort(took)
	half := took[len(took)/2]
	t.Logf("%d tokens: p50 %v, p99 %v; slowest: %v", len(took), half, took[len(took)*99/100], slowest)
	if half > 50*time.Millisecond {
		t.Errorf("a neighbor's tokens take %v, want 50 ms at most", half)
	}
	for target, longest := range slowest {
		if longest > 5*time.Second { // the kubelet's timeout
			t.Errorf("%s took %v", target, longest)
		}
	}
}
