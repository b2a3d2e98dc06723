package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/sandbox"
)

// A user's mistakes and the answers to them. Nothing here needs root or touches the machine.
func TestSandboxMistakes(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{"sandbox status --name no-such-sandbox", "run `podid sandbox up`"},
		{"sandbox logs --name no-such-sandbox", "run `podid sandbox up`"},
		{"sandbox logs etcd --name no-such-sandbox", "run `podid sandbox up`"},
		{"sandbox logs -f --name no-such-sandbox", "which log to follow?"},
		{"sandbox shell --name no-such-sandbox -- true", "run `podid sandbox up`"},
		{"sandbox node exec node-0 --name no-such-sandbox", "run `podid sandbox up`"},
		{"sandbox load-image x.tar --name no-such-sandbox", "run `podid sandbox up`"},
		{"sandbox load-image", "requires at least 1 arg"},
		{"sandbox status --name ../etc", "use up to 32 lower-case letters"},
		{"sandbox up --nodes many", "see `podid sandbox up --help`"},
		{"sandbox up extra", "extra"},
		{"sandbox up --dataplane wifi", "use bridge, routed, ebpf or cilium=DIR"},
		{"sandbox up --dataplane cilium=/no-such-folder", "lacks cilium-agent, cilium-operator-generic, cilium-cni, clang, bpf/bpf_lxc.c; make such a folder with `hack/cilium.sh DIR`"},
		{"sandbox frobnicate", "\"frobnicate\" for \"podid sandbox\"; see `podid sandbox --help`"},
		{"identity federate", "received 0; see `podid identity federate --help`"},
		{"cleanup nod", "\"nod\" for \"podid cleanup\"; see `podid cleanup --help`"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(t.Context(), strings.Fields(tt.args), &out, &errs); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(errs.String(), tt.want) {
				t.Errorf("it says %q, want %q", errs.String(), tt.want)
			}
		})
	}
}

func TestOrInterruption(t *testing.T) {
	live := t.Context()
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupt signal received"))
	failed, left := errors.New("failed"), error(&sandbox.CleanupError{Sandbox: "x", Err: errors.New("busy")})
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		want string
		code int
	}{
		{"fine", live, nil, "", 0},
		{"failed", live, failed, "failed", 1},
		{"interrupted", ended, failed, "interrupt signal received; everything was cleaned up", 130},
		{"something is left", ended, errors.Join(failed, left), "busy", 1},
		{"done just in time", ended, nil, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := orInterruption(tt.ctx, tt.err)
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			code := 1
			var coder exitCoder
			if errors.As(err, &coder) {
				code = coder.ExitCode()
			}
			if !strings.Contains(err.Error(), tt.want) || code != tt.code {
				t.Errorf("got %v with exit code %d", err, code)
			}
		})
	}
}

func TestPrintStatus(t *testing.T) {
	status := sandbox.Status{Name: "x", Phase: "up", Kubernetes: "v1.34.4", Dataplane: "routed", Components: []sandbox.ComponentStatus{
		{Name: "etcd", State: "running", PID: 7, MemoryMiB: 41, Log: "/log"}, {Name: "node-0", State: "ready", Address: "10.200.0.10"},
	}}
	for format, want := range map[string]string{
		"": "etcd        running   41 MiB\n", "wide": "data plane routed", "json": `"memoryMiB": 41`, "yaml": "memoryMiB: 41",
	} {
		var out strings.Builder
		if err := printStatus(&out, status, format); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("-o %q: no %q in\n%s", format, want, out.String())
		}
	}
	if err := printStatus(&strings.Builder{}, status, "xml"); err == nil {
		t.Error("-o xml is accepted")
	}
}
