// Clients that open connections to every port of mic and misuse them.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

const (
	// memoryLimit is the chart's limit, in MiB.
	memoryLimit = 512
	// maxSockets is what one pod and the processes of the host may have of the three ports
	// (docs/mic.md, Probes), and as many again as mic needs itself.
	maxSockets = 2*(8+8) + 8 + 64
)

// TestFlood floods all ports of mic: those on all addresses from a pod, those on loopback from its
// own network. Meanwhile the kubelet and Prometheus get responses, and mic stays within the chart's
// memory limit.
func TestFlood(t *testing.T) {
	testnet.Require(t)
	home, pod := testnet.New(t), testnet.New(t)
	testnet.Veth(t, home, "pod0", pod, "eth0")
	home.Address(t, "pod0", "10.244.0.1/24")
	pod.Address(t, "eth0", "10.244.0.2/24")

	dir := t.TempDir()
	binary := filepath.Join(dir, "mic")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, ".")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mic: %v\n%s", err, out)
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(unreachable), 0o600); err != nil {
		t.Fatal(err)
	}
	args, env := setup(t, kubeconfig, []string{"--http-probe-port=8080", "--prometheus-port=8888", "--enableProfile"})
	var log bytes.Buffer
	mic := exec.CommandContext(t.Context(), binary, args...)
	mic.Stderr = &log
	for name, value := range env {
		mic.Env = append(mic.Env, name+"="+value)
	}
	if err := home.Do(mic.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = mic.Process.Kill()
		if err := mic.Wait(); t.Failed() {
			t.Logf("mic: %v\n%s", err, log.String())
		}
	})
	ask := asker(t, pod)
	testenv.Succeeds(t, "a response", func() error { return ask("8080", "/healthz") })

	var stops []func() int
	for _, l := range testnet.Listeners(t, mic.Process.Pid) {
		from, to := home, l
		if address, ok := l.(*net.TCPAddr); ok && address.IP.IsUnspecified() {
			from, to = pod, &net.TCPAddr{IP: net.IPv4(10, 244, 0, 1), Port: address.Port}
		}
		stops = append(stops, from.Flood(to, 4000))
	}
	if len(stops) < 3 { // probes, metrics, profiles
		t.Errorf("only %d ports are open", len(stops))
	}
	slowest := map[string]time.Duration{}
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		for target, port := range map[string]string{"/healthz": "8080", "/metrics": "8888"} {
			began := time.Now()
			if err := ask(port, target); err != nil {
				t.Errorf("%s: %v", target, err)
			}
			slowest[target] = max(slowest[target], time.Since(began))
		}
	}
	sockets, memory := testnet.Sockets(t, mic.Process.Pid), testnet.MostMemory(t, mic.Process.Pid)
	connections := 0
	for _, stop := range stops {
		flooded := stop()
		if connections += flooded; flooded == 0 {
			t.Error("a port was not flooded")
		}
	}
	t.Logf("%d connections: %d sockets open, %d MiB at the most; slowest: %v", connections, sockets, memory, slowest)
	if sockets > maxSockets || memory > memoryLimit {
		t.Errorf("%d sockets open and %d MiB, want %d and %d at most", sockets, memory, maxSockets, memoryLimit)
	}
	for target, longest := range slowest {
		if longest > 5*time.Second { // the kubelet's limit
			t.Errorf("%s took %v", target, longest)
		}
	}
}

// asker returns a function that sends requests to mic from an address that the flood does not use.
func asker(t *testing.T, pod *testnet.Net) func(port, target string) error {
	pod.Address(t, "eth0", "10.244.0.3/24")
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (c net.Conn, err error) {
			err = pod.Do(func() error {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 244, 0, 3)}, Timeout: timeout}
				c, err = d.Dial(network, address)
				return err
			})
			return c, err
		},
	}}
	return func(port, target string) error {
		resp, err := client.Get("http://10.244.0.1:" + port + target)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %.80s", resp.Status, strings.TrimSpace(string(body)))
		}
		return err
	}
}
