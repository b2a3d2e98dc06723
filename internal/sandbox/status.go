// The current state of a sandbox and its components.

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/node"
)

// Status is the output of `podid sandbox status`.
type Status struct {
	Name string `json:"name"`
	// Phase is up, starting, stopping, or broken if a component that should run does not.
	Phase      string            `json:"phase"`
	Created    time.Time         `json:"created"`
	Kubernetes string            `json:"kubernetes"`
	Dataplane  string            `json:"dataplane"`
	Kubeconfig string            `json:"kubeconfig"`
	Namespace  string            `json:"networkNamespace"`
	Azure      Azure             `json:"azure"`
	Components []ComponentStatus `json:"components"`
}

// ComponentStatus is one program, or one node.
type ComponentStatus struct {
	Name string `json:"name"`
	// State is running, ended or, for a node, ready or not ready.
	State string `json:"state"`
	PID   int    `json:"pid"`
	// MemoryMiB is the resident memory of the program, or of everything on the node.
	MemoryMiB int64  `json:"memoryMiB"`
	Address   string `json:"address,omitempty"`
	Log       string `json:"log"`
}

// Status examines every component. It returns ErrNotUp if there is no sandbox.
func (s *Sandbox) Status(ctx context.Context) (Status, error) {
	state, err := s.layout.load()
	if err != nil {
		return Status{}, err
	}
	plan, err := network.NewPlan(s.layout.Name, state.Nodes)
	if err != nil {
		return Status{}, err
	}
	out := Status{
		Name: state.Name, Phase: string(state.Phase), Created: state.Created, Kubernetes: state.Set.Kubernetes, Dataplane: string(state.Dataplane),
		Kubeconfig: s.layout.Kubeconfig(), Namespace: plan.Switch.Path(), Azure: state.Azure,
	}
	out.Components = append(out.Components, s.controlStatus(plan)...)
	ready := s.readyNodes(ctx, state)
	for _, n := range plan.Nodes {
		c, ok := state.component(n.Name)
		if !ok {
			continue
		}
		cs := ComponentStatus{Name: n.Name, State: "not ready", PID: c.ID.PID, Log: c.Log, Address: n.IP.Addr().String()}
		switch {
		case !c.ID.Alive():
			cs.State = "ended"
		case ready[n.Name]:
			cs.State = "ready"
		}
		cs.MemoryMiB = groupMemory(state.Cgroups, n.Name)
		out.Components = append(out.Components, cs)
	}
	for _, c := range out.Components {
		if state.Phase == Up && c.State != "running" && c.State != "ready" {
			out.Phase = "broken"
		}
	}
	return out, nil
}

// controlStatus finds the programs of the control plane among the processes of the switch's
// namespace by their names.
func (s *Sandbox) controlStatus(plan network.Plan) []ComponentStatus {
	spec, err := node.ReadSpec(filepath.Join(s.layout.Node(controlName), "spec.json"))
	if err != nil {
		return nil
	}
	running := map[string]int{}
	pids, _ := plan.Switch.Processes() // on an error, everything shows as ended
	for _, pid := range pids {
		if name, _, ok := strings.Cut(readFile(fmt.Sprintf("/proc/%d/cmdline", pid)), "\x00"); ok {
			running[name] = pid
		}
	}
	var out []ComponentStatus
	for _, svc := range spec.Services {
		cs := ComponentStatus{Name: svc.Name, State: "ended", Log: svc.Log}
		if pid, ok := running[svc.Name]; ok {
			cs.State, cs.PID, cs.MemoryMiB = "running", pid, parseResident(readFile(fmt.Sprintf("/proc/%d/status", pid)))
		}
		out = append(out, cs)
	}
	return out
}

// readyNodes asks the API server. It returns no nodes if the API server does not answer.
func (s *Sandbox) readyNodes(ctx context.Context, state State) map[string]bool {
	cfg, err := s.Client()
	if err != nil || state.Phase == Stopping {
		return nil
	}
	cfg.Timeout = 3 * time.Second
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	ready := map[string]bool{}
	for i := range list.Items {
		ready[list.Items[i].Name] = controlplane.NodeReady(&list.Items[i])
	}
	return ready
}

// Client returns the administrator's client configuration. It dials inside the sandbox from any
// namespace.
func (s *Sandbox) Client() (*rest.Config, error) {
	plan, err := network.NewPlan(s.layout.Name, 1)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.layout.Kubeconfig()); errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotUp
	}
	return controlplane.Client(s.layout.Kubeconfig(), plan.Switch)
}

// readFile returns a file's text, or "" if it cannot be read: an ended process has no files.
func readFile(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// parseResident returns VmRSS of a process's status file in MiB, or 0 if it is missing.
func parseResident(status string) int64 {
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return kib / 1024
		}
	}
	return 0
}

// groupMemory returns the memory of a node's control group in MiB, page cache included.
func groupMemory(groups []string, node string) int64 {
	for _, g := range groups {
		for _, file := range []string{"memory.current", "memory.usage_in_bytes"} { // v2, v1
			b, err := os.ReadFile(g + "/" + node + "/" + file)
			if err != nil {
				continue
			}
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
				return n >> 20
			}
		}
	}
	return 0
}
