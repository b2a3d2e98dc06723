// Installing NMI so that it captures requests inside pods.

package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/podid-io/podid/internal/sandbox/network"
)

// captureWire is the way that needs nothing but the chart.
const captureWire = "wire"

// CaptureFor checks a user's choice of NMI's --capture for a data plane, and returns it or the
// default: the wire where that works.
func CaptureFor(plane network.Dataplane, way string) (string, error) {
	switch {
	case way != "" && way != captureWire && way != "prefer" && way != "require":
		return "", fmt.Errorf("capture %q: use wire, prefer or require", way)
	case plane == network.EBPF && way == "":
		return "prefer", nil
	case plane == network.EBPF && way == captureWire:
		return "", fmt.Errorf("with data plane %s, packets of pods pass by the wire: use capture prefer or require", plane)
	case way == "":
		return captureWire, nil
	}
	return way, nil
}

// captureValues are the values of the chart for a way other than the wire: what NMI needs of the
// node.
func captureValues(way string) []string {
	values := []string{"nmi.extraArgs[1]=--capture=" + way}
	for i, m := range []struct{ name, path, kind, propagation string }{
		{"groups", "/sys/fs/cgroup", "Directory", "None"},
		{"bpf", "/sys/fs/bpf", "Directory", "None"},
		{"namespaces", "/run/netns", "DirectoryOrCreate", "HostToContainer"}, // of pods that start later, too
		{"holder", "/run/podid", "DirectoryOrCreate", "None"},
	} {
		volume, mount := fmt.Sprintf("nmi.extraVolumes[%d].", i+2), fmt.Sprintf("nmi.extraVolumeMounts[%d].", i+2)
		values = append(values,
			volume+"name="+m.name, volume+"hostPath.path="+m.path, volume+"hostPath.type="+m.kind,
			mount+"name="+m.name, mount+"mountPath="+m.path, mount+"mountPropagation="+m.propagation)
	}
	return values
}

// capturingChart copies the chart to a folder, with the capabilities that capture inside pods
// needs.
func capturingChart(chart, to string) error {
	if err := os.CopyFS(to, os.DirFS(chart)); err != nil {
		return fmt.Errorf("copy the chart: %w", err)
	}
	const before, after = "add: [NET_ADMIN]", "add: [NET_ADMIN, SYS_ADMIN, BPF]"
	file := filepath.Join(to, "templates/nmi-daemonset.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("copy the chart: %w", err)
	}
	if strings.Count(string(text), before) != 1 {
		return fmt.Errorf("give NMI capabilities: %q is not once in %s", before, file)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), before, after, 1)), 0o644); err != nil {
		return fmt.Errorf("copy the chart: %w", err)
	}
	return nil
}
