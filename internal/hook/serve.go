// A whole holder: programs on the pods' control group, guards on the uplinks, and sockets in the
// pods' network namespaces.

package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/hook/generation"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/probe"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/hook/uplinks"
)

// Settings are what an operator chooses, and where things are on the node.
type Settings struct {
	// Metadata is the metadata service. Closed are services that pods never reach.
	Metadata netip.AddrPort
	Closed   []netip.AddrPort
	// PassAbsent is program.Config's. PassUntilReady is so, too, until an agent has all listeners, if
	// there were no programs before: pods that run are not refused meanwhile.
	PassAbsent, PassUntilReady bool
	// Listen is the address of the listeners in pods' namespaces.
	Listen netip.AddrPort
	// Group is the folder of the pods' control group.
	Group string
	// HostPods lets agents ask to capture pods on the node's network.
	HostPods bool
	// Namespaces is the folder in which the container runtime keeps network namespaces.
	Namespaces string
	// Pins is a folder in a BPF file system, which Serve makes.
	Pins string
	// Lock is a file that all holders of the node share. Its folder is made.
	Lock string
	// Socket is where this holder's agents connect. Users are whose agents may connect, besides
	// root's.
	Socket string
	Users  []uint32
	// Checked is called with the result of each check: nil once everything is in place. It is called
	// once a minute, and after changes of the uplinks. If a program is gone, Serve returns instead.
	Checked func(error)
	// Retire gets a channel when another agent has taken over. If no other holder serves, the
	// programs are removed. The sockets stay, for the connections on them. The channel gets the error.
	Retire <-chan chan<- error
}

// Serve is a holder in this process until ctx ends. It returns an error if the programs cannot be
// put in place here, or the holder cannot go on. What is in place stays. It must run in the node's
// own network namespace, on Linux 5.14 or newer.
func Serve(ctx context.Context, s Settings, log logr.Logger) error {
	config, until, err := s.programs()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.Lock), 0o755); err != nil {
		return fmt.Errorf("make folder for the lock of holders: %w", err)
	}
	place, err := generation.Open(s.Lock)
	if err != nil {
		return err
	}
	defer func() { _ = place.Close() }()
	agents, err := protocol.Listen(ctx, s.Socket, s.Users...)
	if err != nil {
		return err
	}
	programs, err := program.Attach(config, s.Group, s.Pins) // last: from here on pods are refused without listeners
	if err != nil {
		return errors.Join(err, agents.Close())
	}
	defer programs.Close()
	group, ctx := errgroup.WithContext(ctx)
	work := s.holder(Config{Programs: programs, Generation: place, Node: config.Node, Agents: agents})
	if until {
		work.Ready = programs.RefuseAbsent
	}
	holder := New(work, log)
	guarding, stopGuarding := context.WithCancel(ctx)
	defer stopGuarding()
	group.Go(func() error { return holder.Run(ctx) })
	group.Go(func() error { return newGuards(guarding, programs, s).run(guarding, log) })
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case done := <-s.Retire:
				stopGuarding() // programs that are gone are no failure any more
				done <- holder.retire(func() error { return program.Remove(s.Pins) })
			}
		}
	})
	return group.Wait()
}

// programs returns the configuration of the programs, and whether PassAbsent is only until a holder
// is ready.
func (s *Settings) programs() (c program.Config, untilReady bool, err error) {
	c = program.Config{Metadata: s.Metadata, Closed: s.Closed, PassAbsent: s.PassAbsent}
	var err1, err2 error
	c.Node, err1 = netns.Cookie()
	c.Pods, err2 = program.GroupID(s.Group)
	_, err3 := os.Stat(s.Namespaces)
	if err := errors.Join(err1, err2, err3); err != nil {
		return c, false, err
	}
	if _, none := os.Stat(s.Pins); !s.PassAbsent && s.PassUntilReady && none != nil {
		c.PassAbsent, untilReady = true, true
	}
	return c, untilReady, nil
}

// holder completes the configuration of a holder.
func (s *Settings) holder(c Config) Config {
	c.Folder, c.Group, c.Listen = s.Namespaces, s.Group, s.Listen
	if s.HostPods {
		c.NodeFile = "/proc/self/ns/net"
	}
	return c
}

// Release removes the programs of holders that have ended, unless another holder is serving.
func Release(lock, pins string) error {
	place, err := generation.Open(lock)
	if err != nil { // then no holder can have used it
		return errors.Join(err, program.Remove(pins))
	}
	defer func() { _ = place.Close() }()
	err = place.Do(func() error { return program.Remove(pins) })
	if errors.Is(err, generation.ErrNewer) {
		return nil
	}
	return err
}

// checkEvery is the time between two checks of the programs.
const checkEvery = time.Minute

// guards keeps the guards in place, and checks all programs.
type guards struct {
	programs *program.Hook
	targets  []netip.Addr
	checked  func(error)
	probe    func() error

	mu      sync.Mutex
	uplinks []program.Uplink
	done    bool       // there was a check
	lost    chan error // gets an error if a program is no longer there
}

func newGuards(ctx context.Context, programs *program.Hook, s Settings) *guards {
	g := &guards{
		programs: programs, targets: s.targets(), checked: s.Checked, lost: make(chan error, 1),
		probe: func() error { return probe.Run(ctx, s.Group, s.Metadata, programs) },
	}
	return g
}

// run watches the uplinks and checks until ctx ends, or a program is no longer there.
func (g *guards) run(ctx context.Context, log logr.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel() // before the wait
	watch.Go(func() { uplinks.Watch(ctx, g.targets, g.guard, log) })
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-g.lost:
			return err
		case <-ticker.C:
			g.check()
		}
	}
}

// guard puts a guard on each uplink, unless they are in place. It does not where connect4 and
// connect6 are gone: another agent has removed them, and a guard alone would drop what host-network
// pods send.
func (g *guards) guard(all []uplinks.Uplink) error {
	if g.programsLost() {
		return nil
	}
	on := make([]program.Uplink, 0, len(all))
	var failures []error
	for _, u := range all {
		uplink := program.Uplink{Index: u.Index, Ethernet: u.Ethernet}
		if g.programs.Guarded(uplink) == nil {
			on = append(on, uplink)
			continue
		}
		if err := g.programs.Guard(uplink); err != nil {
			failures = append(failures, fmt.Errorf("guard interface %s: %w", u.Name, err))
		}
		on = append(on, uplink)
	}
	g.mu.Lock()
	changed := !slices.Equal(g.uplinks, on)
	g.uplinks = on
	g.mu.Unlock()
	if err := errors.Join(failures...); err != nil {
		g.checked(err)
		return err
	}
	if changed || !g.any() {
		g.check()
	}
	return nil
}

// any reports whether there has been a check.
func (g *guards) any() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.done
}

// programsLost reports whether connect4 or connect6 is gone, and lets run return why.
func (g *guards) programsLost() bool {
	err := g.programs.Attached()
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	select {
	case g.lost <- fmt.Errorf("another process has removed the programs: %w", err):
	default:
	}
	return true
}

// check reports whether everything is in place.
func (g *guards) check() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
	if g.programsLost() {
		return
	}
	err := g.programs.Check()
	for _, u := range g.uplinks {
		err = errors.Join(err, g.programs.Guarded(u))
	}
	if err == nil {
		err = g.probe()
	}
	g.checked(err)
}
