// Changes to a running sandbox: more images, a node that crashes, a node that returns.

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/node"
	"github.com/podid-io/podid/internal/sandbox/process"
)

// LoadImages imports image archives on all nodes.
func (s *Sandbox) LoadImages(ctx context.Context, archives []string) error {
	state, err := s.layout.load()
	if err != nil {
		return err
	}
	for _, archive := range archives {
		to := filepath.Join(s.layout.Images(), filepath.Base(archive))
		if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("load image %s: %w", archive, err)
		}
		if err := copyFile(archive, to); err != nil {
			return fmt.Errorf("load image %s: %w", archive, err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range state.Components {
		if !c.Node || !c.ID.Alive() {
			continue
		}
		group.Go(func() error {
			for _, archive := range archives {
				if err := importImage(ctx, c, node.ImageDir+"/"+filepath.Base(archive)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func importImage(ctx context.Context, c Component, archive string) error {
	cmd := exec.CommandContext(ctx, node.BinDir+"/ctr", "--address", node.ContainerdSocket, "--namespace", "k8s.io", "images", "import", archive)
	cmd.Err = nil // the path is the node's; whether it exists here does not matter
	cmd.Env, cmd.Dir = node.Env(), "/"
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := node.Run(c.ID.PID, cmd); err != nil {
		return fmt.Errorf("load image %s on %s: %w: %s", filepath.Base(archive), c.Name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// CrashNode simulates a power failure: everything on the node ends at once, without notice.
func (s *Sandbox) CrashNode(name string) error {
	release, err := s.layout.acquire()
	if err != nil {
		return err
	}
	defer release(false)
	c, err := s.node(name)
	if err != nil {
		return err
	}
	return process.Kill(c.ID)
}

// StartNode restarts a crashed node with its disk unchanged, and with programs that run first, and
// waits until it is ready.
func (s *Sandbox) StartNode(ctx context.Context, name string, before ...BootProgram) error {
	release, err := s.layout.acquire()
	if err != nil {
		return err
	}
	defer release(false)
	state, err := s.layout.load()
	if err != nil {
		return err
	}
	c, ok := state.component(name)
	if !ok || !c.Node {
		_, err := s.node(name)
		return err
	}
	if c.ID.Alive() {
		return fmt.Errorf("%s is running", name)
	}
	b, n, err := s.resume(state, name)
	if err != nil {
		return err
	}
	// A kubelet that finds the pods' groups of its earlier run spends most of a minute on them.
	for _, dir := range state.Cgroups {
		if err := cgroup.Remove(filepath.Join(dir, name), removalTimeout); err != nil {
			return err
		}
	}
	if err := b.plan.UpNode(n); err != nil {
		return err
	}
	started := time.Now()
	if err := b.startNode(n, before...); err != nil {
		return err
	}
	ctx, cancel := within(ctx, DefaultTimeout)
	defer cancel()
	return controlplane.WaitNode(ctx, b.client, name, started)
}

// resume restores the state of `up` from what it recorded.
func (s *Sandbox) resume(state State, name string) (*build, network.Node, error) {
	plan, err := network.NewPlan(s.layout.Name, state.Nodes)
	if err != nil {
		return nil, network.Node{}, err
	}
	groups, err := cgroup.Detect()
	if err != nil {
		return nil, network.Node{}, err
	}
	client, err := s.Client()
	if err != nil {
		return nil, network.Node{}, err
	}
	b := &build{
		sandbox: s, plan: plan, plane: state.Dataplane, set: state.Set, groups: groups, client: client,
		record: &record{layout: s.layout, state: state},
	}
	for _, n := range plan.Nodes {
		if n.Name == name {
			return b, n, nil
		}
	}
	return nil, network.Node{}, fmt.Errorf("there is no node %q", name)
}
