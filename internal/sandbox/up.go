// Bringing a sandbox up.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/pki"
	"github.com/podid-io/podid/internal/sandbox/process"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// Deadlines, far above what was ever seen (3 s and 6 s), so that a loaded machine still makes it.
const (
	apiDeadline  = 2 * time.Minute
	nodeDeadline = 3 * time.Minute
)

// Options are what a user may choose.
type Options struct {
	Name string
	// Nodes is how many nodes there are.
	Nodes int
	// ARMUpdate is how long the emulated Azure takes to change the identities of a scale set.
	ARMUpdate time.Duration
	// Images are archives that the nodes import before they become ready.
	Images []string
}

// Sandbox is one cluster on this machine, up or not.
type Sandbox struct {
	layout Layout
	report *progress.Reporter
	getenv func(string) string
	// self is the podid program that nodes and the emulator run.
	self string
}

// New is a handle to the sandbox of that name; it touches nothing.
func New(name string, report *progress.Reporter) (*Sandbox, error) {
	layout, err := NewLayout(name)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find podid itself: %w", err)
	}
	return &Sandbox{layout: layout, report: report, getenv: os.Getenv, self: self}, nil
}

// Layout says where the sandbox keeps its things.
func (s *Sandbox) Layout() Layout { return s.layout }

// Up brings the sandbox up, or finds that it is up. When it fails or the context ends, nothing is left behind.
func (s *Sandbox) Up(ctx context.Context, o Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("a sandbox makes network namespaces and mounts: run this as root, for example with sudo")
	}
	plan, err := network.NewPlan(s.layout.Name, o.Nodes)
	if err != nil {
		return err
	}
	release, err := s.layout.acquire()
	if err != nil {
		return err
	}
	keepLock := false
	defer func() { release(!keepLock) }()
	if state, err := s.layout.load(); err == nil && state.Phase == Up && state.allAlive() {
		s.report.Say("sandbox %q is already up, with %d nodes", s.layout.Name, state.Nodes)
		keepLock = true
		return s.LoadImages(ctx, o.Images)
	}
	found, err := s.down()
	if err != nil {
		return err
	}
	if found {
		s.report.Say("removed what an earlier, interrupted sandbox had left")
	}
	set, err := programs.Prepare(ctx, s.getenv, s.report)
	if err != nil {
		return err
	}
	if err := s.up(ctx, o, plan, set); err != nil {
		if _, downErr := s.down(); downErr != nil {
			return errors.Join(err, downErr)
		}
		return err
	}
	keepLock = true
	return nil
}

// up does the work; its caller cleans up after it.
func (s *Sandbox) up(ctx context.Context, o Options, plan network.Plan, set programs.Set) error {
	b, err := s.begin(o, plan, set)
	if err != nil {
		return err
	}
	steps := []struct {
		what string
		do   func(context.Context, *progress.Step) (result string, err error)
	}{
		{"network", b.network},
		{"emulated Azure", b.azure},
		{"control plane", b.controlPlane},
		{"nodes", b.nodes},
	}
	for _, step := range steps {
		p := s.report.Start(step.what)
		result, err := step.do(ctx, p)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			p.Fail()
			return err
		}
		p.Done(result)
	}
	return b.update(func(st *State) { st.Phase = Up })
}

// build is one run of up.
type build struct {
	*record
	sandbox *Sandbox
	options Options
	plan    network.Plan
	set     programs.Set
	groups  cgroup.Layout
	client  *rest.Config
}

// begin makes the sandbox's folder and writes down what is about to be made.
func (s *Sandbox) begin(o Options, plan network.Plan, set programs.Set) (*build, error) {
	groups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.layout.Dir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the sandbox's folder: %w", err)
	}
	_, err = os.Stat(netns.Dir)
	b := &build{sandbox: s, options: o, plan: plan, set: set, groups: groups, record: &record{layout: s.layout}}
	return b, b.update(func(st *State) {
		*st = State{
			Name: s.layout.Name, Phase: Starting, Created: time.Now().UTC(), Nodes: o.Nodes, Set: set,
			Cgroups: groups.Bases(s.layout.Name), MadeNetnsDir: errors.Is(err, fs.ErrNotExist),
		}
	})
}

func (b *build) network(ctx context.Context, _ *progress.Step) (string, error) {
	if err := b.images(ctx); err != nil {
		return "", err
	}
	if err := b.linkTools(); err != nil {
		return "", err
	}
	if err := b.plan.Up(); err != nil {
		return "", err
	}
	authority, err := pki.NewAuthority(b.layout.PKI(), time.Now())
	if err != nil {
		return "", err
	}
	if err := controlplane.WritePKI(authority, b.plan); err != nil {
		return "", err
	}
	b.client, err = controlplane.Client(b.layout.Kubeconfig(), b.plan.Switch)
	return fmt.Sprintf("%d namespaces without a way out", len(b.plan.Namespaces())), err
}

func (b *build) controlPlane(ctx context.Context, p *progress.Step) (string, error) {
	config := controlplane.Config{
		Namespace: b.plan.Switch, API: b.plan.API.Addr(),
		PKI: b.layout.PKI(), Data: filepath.Join(b.layout.Dir(), "data"), Logs: b.layout.Logs(),
		Program: b.set.Path, Env: b.env(),
	}
	ctx, cancel := context.WithTimeoutCause(ctx, apiDeadline, errors.New("it took longer than "+apiDeadline.String()))
	defer cancel()
	for i, spec := range config.Components() {
		if i == 2 { // the others give up without an API server
			p.Far("waiting for the API server")
			if err := controlplane.WaitAPI(ctx, b.client, b.ended); err != nil {
				return "", err
			}
		}
		if err := b.start(spec); err != nil {
			return "", err
		}
	}
	return "Kubernetes " + b.set.Kubernetes, nil
}

// nodes starts all nodes side by side and waits until they are ready.
func (b *build) nodes(ctx context.Context, p *progress.Step) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeDeadline, errors.New("it took longer than "+nodeDeadline.String()))
	defer cancel()
	p.Far("0 of %d ready", len(b.plan.Nodes))
	var group errgroup.Group
	for _, n := range b.plan.Nodes {
		group.Go(func() error { return b.startNode(n) })
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	err := controlplane.WaitNodes(ctx, b.client, len(b.plan.Nodes), func(ready int) {
		p.Far("%d of %d ready", ready, len(b.plan.Nodes))
	})
	if err != nil {
		return "", fmt.Errorf("%w; see `podid sandbox logs` or %s", err, b.layout.Logs())
	}
	return fmt.Sprintf("%d ready", len(b.plan.Nodes)), nil
}

// start starts a component in the switch's namespace and records it.
func (b *build) start(spec process.Spec) error {
	id, err := process.Start(spec)
	if err != nil {
		return err
	}
	return b.update(func(st *State) { st.put(Component{Name: spec.Name, ID: id, Log: spec.Log}) })
}

// ended tells which component has ended, if any.
func (b *build) ended() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.state.Components {
		if !c.ID.Alive() {
			return fmt.Errorf("%s has ended; the last lines of its log:\n%s", c.Name, tail(c.Log, 8))
		}
	}
	return nil
}

// env is the environment of the control plane's programs.
func (b *build) env() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + b.layout.Dir(), "LD_LIBRARY_PATH=" + b.set.Libraries}
}

func (s *State) allAlive() bool {
	for _, c := range s.Components {
		if !c.ID.Alive() {
			return false
		}
	}
	return len(s.Components) > 0
}
