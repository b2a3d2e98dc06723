// Starting a sandbox.

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/internal/sandbox/cilium"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/pki"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// DefaultTimeout leaves room for a loaded machine: the control plane takes 5 s and the nodes 6 s.
const DefaultTimeout = 3 * time.Minute

// Options are the user's choices.
type Options struct {
	Name string
	// Nodes is the number of nodes.
	Nodes int
	// Dataplane is the nodes' data plane. Empty means the default, or that of a sandbox that is up.
	Dataplane string
	// ARMUpdate is how long the emulated Azure takes to change the identities of a scale set.
	ARMUpdate time.Duration
	// Timeout bounds the start of the control plane and, separately, of the nodes.
	Timeout time.Duration
	// Images are archives that the nodes import before they become ready.
	Images []string
}

// Sandbox is one cluster on this machine, whether it is up or not.
type Sandbox struct {
	layout Layout
	report *progress.Reporter
	getenv func(string) string
	// self is the podid program that nodes and the emulator run.
	self string
}

// New returns the sandbox of that name. It changes nothing.
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

// Layout returns where the sandbox keeps its files.
func (s *Sandbox) Layout() Layout { return s.layout }

// Up starts the sandbox unless it is up. If it fails or the context ends, nothing is left behind.
func (s *Sandbox) Up(ctx context.Context, o Options) (err error) {
	plane, err := network.ParseDataplane(o.Dataplane)
	if err != nil {
		return err
	}
	if dir, ok := plane.Cilium(); ok {
		if err := cilium.Check(dir); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("a sandbox makes network namespaces and mounts: run this as root, for example with sudo")
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	plan, err := network.NewPlan(s.layout.Name, o.Nodes)
	if err != nil {
		return err
	}
	release, err := s.layout.acquire()
	if err != nil {
		return err
	}
	running := false
	defer func() { release(!running) }()
	running, err = s.upLocked(ctx, o, plan)
	return err
}

// upLocked is Up for the holder of the lock. It reports whether the sandbox runs, which it may also
// do after an error.
func (s *Sandbox) upLocked(ctx context.Context, o Options, plan network.Plan) (running bool, err error) {
	if state, err := s.layout.load(); err == nil && state.Phase == Up && state.allAlive() {
		if plane, _ := network.ParseDataplane(o.Dataplane); o.Dataplane != "" && plane != state.Dataplane { // Up has checked it
			return true, fmt.Errorf("sandbox %q is up with data plane %s: take it down first (`podid sandbox down --name %[1]s`), or use another --name",
				s.layout.Name, state.Dataplane)
		}
		s.report.Say("sandbox %q is already up, with %d nodes and data plane %s", s.layout.Name, state.Nodes, state.Dataplane)
		return true, s.LoadImages(ctx, o.Images)
	}
	found, err := s.down()
	if err != nil {
		return false, err
	}
	if found {
		s.report.Say("removed what an earlier, interrupted sandbox had left")
	}
	set, err := programs.Prepare(ctx, s.getenv, s.report)
	if err != nil {
		return false, err
	}
	err = s.up(ctx, o, plan, set)
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil { // it failed by itself
		err = s.keepLogs(err)
	}
	_, downErr := s.down()
	return false, errors.Join(err, downErr)
}

// keepLogs copies the logs of a sandbox that failed to start to the cache and adds their place to
// the error.
func (s *Sandbox) keepLogs(cause error) error {
	cache, err := programs.Cache(s.getenv)
	if err != nil {
		return cause
	}
	to := filepath.Join(cache, "log", "sandbox-"+s.layout.Name)
	if os.RemoveAll(to) != nil || os.MkdirAll(filepath.Dir(to), 0o755) != nil || copyLogs(s.layout.Logs(), to) != nil {
		return cause
	}
	return fmt.Errorf("%w; its logs are kept in %s", cause, to)
}

// copyLogs copies instead of renaming because the cache may be on another disk.
func copyLogs(from, to string) error { return os.CopyFS(to, os.DirFS(from)) }

// up does the work of Up. The caller cleans up after a failure.
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
		{"control plane and emulated Azure", b.control},
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
	plane   network.Dataplane
	set     programs.Set
	groups  cgroup.Layout
	client  *rest.Config
}

// checkGroups refuses Cilium where nodes have no v2 control group of their own. Its agent would
// attach its programs to the top one, which is the machine's.
func checkGroups(plane network.Dataplane, groups cgroup.Layout) error {
	if _, ok := plane.Cilium(); ok && !slices.ContainsFunc(groups.Hierarchies, func(h cgroup.Hierarchy) bool { return h.V2 }) {
		return errors.New("no control groups v2 on this machine, which Cilium needs: mount them (mount -t cgroup2 none /sys/fs/cgroup/unified), " +
			"or use --dataplane ebpf")
	}
	return nil
}

// begin makes the sandbox's folder and records what is about to be created.
func (s *Sandbox) begin(o Options, plan network.Plan, set programs.Set) (*build, error) {
	groups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	plane, err := network.ParseDataplane(o.Dataplane)
	if err != nil {
		return nil, err
	}
	if err := checkGroups(plane, groups); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.layout.Dir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the sandbox's folder: %w", err)
	}
	b := &build{sandbox: s, options: o, plan: plan, plane: plane, set: set, groups: groups, record: &record{layout: s.layout}}
	return b, b.update(func(st *State) {
		*st = State{
			Name: s.layout.Name, Phase: Starting, Created: time.Now().UTC(), Nodes: o.Nodes, Dataplane: plane, Set: set,
			Cgroups: groups.Bases(s.layout.Name),
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
	if err := controlplane.WritePKI(authority, b.plan, b.planeClients()...); err != nil {
		return "", err
	}
	b.client, err = controlplane.Client(b.layout.Kubeconfig(), b.plan.Switch)
	return fmt.Sprintf("%d namespaces without a way out", len(b.plan.Namespaces())), err
}

// planeClients returns the clients of the API server that the data plane has.
func (b *build) planeClients() []pki.Subject {
	if _, ok := b.plane.Cilium(); !ok {
		return nil
	}
	return []pki.Subject{{File: cilium.User, User: cilium.User, Group: "system:masters"}}
}

// planeNodes creates the Nodes of a data plane that reads from them which addresses their pods
// have. Their kubelets complete them.
func (b *build) planeNodes(ctx context.Context) error {
	if _, ok := b.plane.Cilium(); !ok {
		return nil
	}
	for _, n := range b.plan.Nodes {
		if err := controlplane.CreateNode(ctx, b.client, n, providerID(n)); err != nil {
			return err
		}
	}
	return nil
}

// nodes starts all nodes at once and waits until they are ready.
func (b *build) nodes(ctx context.Context, p *progress.Step) (string, error) {
	ctx, cancel := within(ctx, b.options.Timeout)
	defer cancel()
	p.Far("0 of %d ready", len(b.plan.Nodes))
	if err := b.planeNodes(ctx); err != nil {
		return "", err
	}
	var group errgroup.Group
	for _, n := range b.plan.Nodes {
		group.Go(func() error { return b.startNode(n) })
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	ctx, stop := b.unlessEnded(ctx)
	defer stop()
	err := controlplane.WaitNodes(ctx, b.client, len(b.plan.Nodes), func(ready int) {
		p.Far("%d of %d ready", ready, len(b.plan.Nodes))
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d ready", len(b.plan.Nodes)), nil
}

// within bounds a wait and names the bound in the error.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, errors.New("it took longer than "+limit.String()))
}

// unlessEnded cancels the context, with the reason as its cause, when a pid 1 of the sandbox ends.
func (b *build) unlessEnded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.state.Components {
		go func() {
			if c.ID.WaitEnd(ctx) {
				cancel(fmt.Errorf("%s has ended; the last lines of its log:\n%s", c.Name, tail(c.Log, 8)))
			}
		}()
	}
	return ctx, func() { cancel(context.Canceled) }
}

func (s *State) allAlive() bool {
	for _, c := range s.Components {
		if !c.ID.Alive() {
			return false
		}
	}
	return len(s.Components) > 0
}
