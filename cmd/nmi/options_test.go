package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/daemon"
)

func noEnv(string) string { return "" }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestOldCommandLine(t *testing.T) {
	// Every flag that v1.8.17 knows, with one dash and with two.
	args := strings.Fields(`--node=n1 --nmi-listen-address=127.0.0.1 --nmi-port 2580 -metadata-ip=169.254.169.254 --metadata-port=80
		--ipt-update-interval-sec=30 --forceNamespaced --MICNamespace=kube-system --http-probe-port=8085
		--retry-attempts-for-created=2 --retry-attempts-for-assigned=3 --find-identity-retry-interval=4 --enableProfile=false
		--enableScaleFeatures=true --block-instance-metadata --metadata-header-required=true --prometheus-port=9091
		--operation-mode=Managed --allow-network-plugin-kubenet --kubelet-config=/x --set-retry-after-header
		--enable-conntrack-deletion --logging-format=json --v=5 --logtostderr --stderrthreshold=2`)
	o := &options{}
	err := o.parse(args, noEnv, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if o.identities.arrivalLimit() != 20*time.Second || o.identities.mode != modeManaged || !o.answers.blockInstance ||
		o.ProbePort != "8085" || o.Verbosity != 5 || !o.answers.retryAfter {
		t.Errorf("got %+v", o)
	}
	if got := strings.Join(o.Deprecated, " "); got != "MICNamespace enable-conntrack-deletion enableScaleFeatures logtostderr stderrthreshold" {
		t.Errorf("without meaning: %s", got)
	}
}

func TestDefaults(t *testing.T) {
	o := &options{}
	err := o.parse(nil, env("NODE_NAME", "n1", "KUBECONFIG", "/k"), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if o.node.name != "n1" || o.Kubeconfig != "/k" || o.identities.arrivalLimit() != 100*time.Second ||
		!o.ForceNamespaced || !o.answers.headerRequired || o.privileged.Upstream() != "169.254.169.254:80" ||
		o.ports.nmi != 2579 || o.ProbePort != "8080" || o.MetricsPort != "9090" || o.ports.listenAddress != "127.0.0.1" ||
		!o.ports.hostTokenTCP || o.ports.hostSocket != "" {
		t.Errorf("got %+v", o)
	}
}

func TestForceNamespaced(t *testing.T) {
	tests := []struct {
		name, args, env string
		want            bool
	}{
		{"nothing said", "", "", true},
		{"flag off", "--forceNamespaced=false", "", false},
		{"env off", "", "false", false},
		{"env on wins", "--forceNamespaced=false", "true", true},
		{"flag on, env off", "--forceNamespaced", "false", true},
		{"managed", "--forceNamespaced=false --operation-mode=managed", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := &options{}
			err := o.parse(append(strings.Fields(tt.args), "--node=n"), env("FORCENAMESPACED", tt.env), &bytes.Buffer{})
			if err != nil || o.ForceNamespaced != tt.want {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestWrongCommandLine(t *testing.T) {
	tests := []struct {
		name, args string
		env        func(string) string
		says       []string
	}{
		{"no node", "", noEnv, []string{"--node is missing"}},
		{"odd node", "--node=A_b", noEnv, []string{"cannot be the name of a node"}},
		{"unknown flag", "--nod=x", noEnv, []string{"nod"}},
		{"argument", "--node=n run", noEnv, []string{`unexpected argument "run"`}},
		{"mode", "--node=n --operation-mode=auto", noEnv, []string{"use standard or managed"}},
		{"format", "--node=n --logging-format=xml", noEnv, []string{"use text or json"}},
		{"addresses", "--node=n --metadata-ip=x --agent-address=y --nmi-listen-address=z", noEnv, []string{"--metadata-ip", "--agent-address", "--nmi-listen-address"}},
		{"addresses of ports", "--node=n --http-probe-address=x --prometheus-address=:9090", noEnv, []string{"--http-probe-address=x", "--prometheus-address=:9090"}},
		{"address in use", "--node=n --agent-address=169.254.169.254", noEnv, []string{"agent address 169.254.169.254"}},
		{"ports", "--node=n --nmi-port=0 --http-probe-port=70000 --metadata-port=-1", noEnv, []string{"--nmi-port=0", "--http-probe-port=70000", "--metadata-port=-1"}},
		{"intervals", "--node=n --ipt-update-interval-sec=0 --retry-attempts-for-created=-1", noEnv, []string{"--ipt-update-interval-sec=0", "--retry-attempts-for-created=-1"}},
		{"guard and cleanup", "--boot-guard --cleanup", noEnv, []string{"--boot-guard does not go with --cleanup"}},
		{"guard and capture", "--boot-guard --capture=always", noEnv, []string{`--capture="always"`}},
		{"relative socket", "--node=n --host-token-socket=host.sock", noEnv, []string{"--host-token-socket", "absolute path"}},
		{"socket with dots", "--node=n --host-token-socket=/run/../host.sock", noEnv, []string{"--host-token-socket", "absolute path"}},
		{"long socket", "--node=n --host-token-socket=/" + strings.Repeat("x", 96), noEnv, []string{"at most 96"}},
		{"cluster identities", "--node=n --cluster-identities=kubelet", noEnv, []string{`--cluster-identities: "kubelet" is neither a client ID`}},
		{"pods on the node's network", "--node=n --capture=prefer --host-network-pods=all", noEnv, []string{`--host-network-pods="all": use off, label or bound`}},
		{"pods on the node's network, on the wire", "--node=n --capture=wire --host-network-pods=label", noEnv, []string{"--host-network-pods=label needs --capture=prefer or require"}},
		{"environment", "--node=n", env("FORCENAMESPACED", "maybe"), []string{"FORCENAMESPACED"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := nmi(context.Background(), strings.Fields(tt.args), tt.env, &stdout, &stderr)
			if code != daemon.ExitUsage {
				t.Errorf("exit code %d, want %d", code, daemon.ExitUsage)
			}
			for _, says := range append(tt.says, "nmi --help") {
				if !strings.Contains(stderr.String(), says) {
					t.Errorf("does not say %q: %s", says, stderr.String())
				}
			}
		})
	}
}

func TestCannotRun(t *testing.T) {
	kubenet := filepath.Join(t.TempDir(), "kubelet")
	if err := os.WriteFile(kubenet, []byte("KUBELET_FLAGS=--v=2 --network-plugin=kubenet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(broken, []byte("clusters: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, args, says string }{
		{"no API server", "--node=n", "--kubeconfig"},
		{"no such kubeconfig", "--node=n --kubeconfig=/nowhere", "/nowhere"},
		{"broken kubeconfig", "--node=n --kubeconfig=" + broken, "read kubeconfig"},
		{"kubenet", "--node=n --kubelet-config=" + kubenet, "--allow-network-plugin-kubenet"},
		{"kubenet allowed", "--node=n --allow-network-plugin-kubenet --kubelet-config=" + kubenet, "--kubeconfig"},
		{"unreadable kubelet config", "--node=n --kubelet-config=" + t.TempDir(), "--kubelet-config"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := nmi(context.Background(), strings.Fields(tt.args), noEnv, &stdout, &stderr); code != daemon.ExitFailed {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("does not say %q: %s", tt.says, stderr.String())
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := nmi(context.Background(), []string{"--help"}, noEnv, &stdout, &stderr); code != daemon.ExitDone || !strings.Contains(stdout.String(), "-agent-address") {
		t.Errorf("help: %d %s", code, stdout.String())
	}
	stdout.Reset()
	if code := nmi(context.Background(), []string{"-version"}, noEnv, &stdout, &stderr); code != daemon.ExitDone || !strings.HasPrefix(stdout.String(), "nmi ") {
		t.Errorf("version: %d %s", code, stdout.String())
	}
	if err := new(options).parse([]string{"-h"}, noEnv, &bytes.Buffer{}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

// TestDependencies keeps out what the agent must not be able to do, and what
// would cost every node memory.
func TestDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, banned := range []string{
			"github.com/Azure/",                      // no ARM client, no credential
			"podid/internal/compute",                 // nor podid's own
			"podid/internal/azure",                   //
			"podid/internal/controllers",             // that is MIC
			"sigs.k8s.io/controller-runtime",         // a scheme of all kinds, and more
			"k8s.io/client-go/kubernetes",            // likewise
			"github.com/podid-io/podid/internal/emu", // nothing emulated
		} {
			if strings.Contains(dep, banned) {
				t.Errorf("nmi depends on %s", dep)
			}
		}
	}
}
