package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/podid-io/podid/internal/hook/wireprobe"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// wireProbed waits for the result of a probe on the node's network.
func (n *node) wireProbed(result string) {
	n.t.Helper()
	want := fmt.Sprintf("aadpodidentity_nmi_wire_probe{result=%q} 1\n", result)
	testenv.Eventually(n.t, "the result of a probe", func() string {
		_, body, err := n.get(n.node, "127.0.0.1:9090", "/metrics")
		if err != nil || !strings.Contains(body, want) {
			return fmt.Sprintf("no %q in the metrics: %v", want, err)
		}
		return ""
	})
}

// diverts lets another program divert pods' requests to an agent of its own.
func (n *node) diverts() (remove func()) {
	n.t.Helper()
	return n.node.Rule(n.t, "other", testnet.BeforeNAT(), testnet.Divert(netip.MustParseAddr("169.254.169.254"), netip.MustParseAddrPort("10.244.0.1:8081"))...)
}

// TestWireProbe: an agent is not ready while another program diverts pods' requests, and ready
// again when it does not.
func TestWireProbe(t *testing.T) {
	n := newNode(t)
	n.serve("10.244.0.1:8081", http.NotFoundHandler())
	p := n.start("--ipt-update-interval-sec=1")
	n.probe("/readyz", 200, "ok")
	n.wireProbed("arrives")

	remove := n.diverts()
	n.probe("/readyz", 503, "wire: a probe on the node's network passed by the redirect")
	n.wireProbed("passes")
	remove()
	n.probe("/readyz", 200, "ok")
	n.wireProbed("arrives")
	n.diverts()
	n.probe("/readyz", 503, "404 Not Found")
	p.stop(syscall.SIGTERM)
	// On a slow machine the other agent may answer too late, which is another reason.
	for _, text := range []string{"a probe on the node's network arrived", "a probe on the node's network did not arrive"} {
		if got := strings.Count(p.log.String(), text); got < 2 {
			t.Errorf("logged %d times, want 2 or more: %s\n%s", got, text, p.log)
		}
	}

	// From the start, and with it turned off.
	p = n.start()
	n.probe("/readyz", 503, "nft list ruleset")
	p.stop(syscall.SIGTERM)
	p = n.start("--wire-probe=false")
	n.probe("/readyz", 200, "ok")
	p.stop(syscall.SIGTERM)
}

// TestWireProbeOfHolder: an agent on the wire that has no privilege has its holder send the probe.
func TestWireProbeOfHolder(t *testing.T) {
	n := newSplit(t)
	n.serve("10.244.0.1:8081", http.NotFoundHandler())
	folder, flags := n.pair(), []string{"--capture=wire", "--ipt-update-interval-sec=1"}
	holder, agent := n.startHolder(folder, flags...), n.startAgent(folder, flags...)
	n.probe("/readyz", 200, "ok")
	n.wireProbed("arrives")
	remove := n.diverts()
	n.probe("/readyz", 503, "wire: a probe on the node's network passed by the redirect")
	remove()
	n.probe("/readyz", 200, "ok")
	agent.stop(syscall.SIGTERM)
	holder.stop(syscall.SIGTERM)
}

// TestWireProbeUnsent: an agent with NET_ADMIN alone, as in the chart, cannot send a probe. It is
// ready, and says what is missing.
func TestWireProbeUnsent(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("needs setpriv")
	}
	n := newNode(t)
	script := filepath.Join(t.TempDir(), "nmi")
	text := "#!/bin/sh\nexec setpriv --bounding-set=-all,+net_admin " + os.Args[0] + ` "$@"`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := n.startProgram(script)
	n.probe("/readyz", 200, "ok")
	n.wireProbed("unknown")
	p.says("CAP_SYS_ADMIN")
	p.stop(syscall.SIGTERM)
}

// TestAnswerProbes: only the question is answered, and only once a probe knows it.
func TestAnswerProbes(t *testing.T) {
	w := newWire()
	if !w.question.Valid() || w.question.Question == w.question.Answer || w.question == newWire().question {
		t.Fatalf("question %+v", w.question)
	}
	handler := w.answerProbes(http.NotFound)
	for _, tt := range []struct {
		path, question string
		answered       bool
	}{
		{wireprobe.Path, w.question.Question, true},
		{wireprobe.Path, "", false},
		{wireprobe.Path, w.question.Answer, false},
		{"/metadata/identity/oauth2/token", w.question.Question, false},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.path, nil)
		r.Header.Set(wireprobe.Header, tt.question)
		out := httptest.NewRecorder()
		handler(out, r)
		if got := strings.Contains(out.Body.String(), w.question.Answer); got != tt.answered {
			t.Errorf("%s with %q: answered %v", tt.path, tt.question, got)
		}
	}
}
