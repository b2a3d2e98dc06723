// Putting the programs in place and replacing an earlier process's.

package program

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Hook is the programs on the pods' control group and on the node's uplinks. Its methods may be
// called concurrently, and like Attach and Remove in the node's own network namespace.
type Hook struct {
	config    Config
	pins      string
	group     string
	endpoints *ebpf.Map
	hostPods  *ebpf.Map
	counts    *ebpf.Map
	guards    map[int32]*ebpf.Program // by the size of the link-layer header
	all       *ebpf.Collection

	uplinks sync.Mutex // for changes of the guards
	noTCX   bool       // for tests: as before Linux 6.6

	noEgress atomic.Bool // nftables cannot help
}

// Attach puts connect4 and connect6 on a control group, given its folder, and pins them in a folder
// of a BPF file system. Programs of an earlier process are replaced, also its guards, and those
// that it put on another group: every connect and every packet meets the old one or the new one.
// Endpoints that an earlier process published stay.
func Attach(c Config, group, pins string) (*Hook, error) {
	if err := shallow(group); err != nil {
		return nil, err
	}
	if err := makePins(pins); err != nil {
		return nil, err
	}
	spec := &ebpf.CollectionSpec{Maps: maps(), Programs: map[string]*ebpf.ProgramSpec{
		connect4:               connectSpec(ebpf.AttachCGroupInet4Connect, c),
		connect6:               connectSpec(ebpf.AttachCGroupInet6Connect, c),
		guardName(etherHeader): guardSpec(c, etherHeader),
		guardName(noHeader):    guardSpec(c, noHeader),
	}}
	all, err := loadCollection(spec, pins)
	if err != nil {
		return nil, err
	}
	h := &Hook{
		config: c, pins: pins, group: group, all: all,
		endpoints: all.Maps[endpointsMap], hostPods: all.Maps[hostPodsMap], counts: all.Maps[countsMap],
		guards: map[int32]*ebpf.Program{
			etherHeader: all.Programs[guardName(etherHeader)], noHeader: all.Programs[guardName(noHeader)],
		},
	}
	if err := h.attachAll(); err != nil {
		all.Close()
		return nil, err
	}
	return h, nil
}

// RefuseAbsent ends Config.PassAbsent: it replaces connect4 and connect6.
func (h *Hook) RefuseAbsent() error {
	c := h.config
	c.PassAbsent = false
	next, err := loadCollection(&ebpf.CollectionSpec{Maps: maps(), Programs: map[string]*ebpf.ProgramSpec{
		connect4: connectSpec(ebpf.AttachCGroupInet4Connect, c),
		connect6: connectSpec(ebpf.AttachCGroupInet6Connect, c),
	}}, h.pins)
	if err != nil {
		return err
	}
	defer next.Close() // the links keep the programs
	for name := range attachTypes() {
		pinned, err := pinnedLink(filepath.Join(h.pins, name))
		if err != nil {
			return err
		}
		err = pinned.Update(next.Programs[name])
		_ = pinned.Close() // the pin keeps it
		if err != nil {
			return explain(fmt.Errorf("replace %s: %w", name, err))
		}
	}
	return nil
}

// attachAll puts connect4 and connect6 in place, and replaces the guards. Before there is a guard,
// it notes the connections that are open.
//
// This process may fail or end after any step, and the node's own processes must keep the services
// even so. A guard without Pods drops what no connect4 has marked. So such guards come after a
// connect4 on the topmost group, which marks all, and are replaced before it leaves that group.
func (h *Hook) attachAll() error {
	steps := []func() error{h.updateGuards, h.attachConnects, h.noteEarlier}
	if h.config.Pods == 0 {
		steps = []func() error{h.attachConnects, h.noteEarlier, h.updateGuards}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// attachConnects puts connect4 and connect6 in place.
func (h *Hook) attachConnects() error {
	for name, at := range attachTypes() {
		if err := h.attach(name, at); err != nil {
			return err
		}
	}
	return nil
}

// The sizes of link-layer headers: of Ethernet, and of links without one.
const (
	etherHeader = 14
	noHeader    = 0
)

func guardName(header int32) string { return fmt.Sprintf("%s%d", guard, header) }

func attachTypes() map[string]ebpf.AttachType {
	return map[string]ebpf.AttachType{connect4: ebpf.AttachCGroupInet4Connect, connect6: ebpf.AttachCGroupInet6Connect}
}

// makePins creates the folder for the pins.
func makePins(pins string) error {
	if err := mounted(filepath.Dir(pins)); err != nil {
		return err
	}
	if err := os.Mkdir(pins, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make folder for pins: %w", err)
	}
	return nil
}

// shallow returns an error if a control group is deeper than the guard looks.
func shallow(group string) error {
	depth := 0
	for folder := filepath.Clean(group); ; folder = filepath.Dir(folder) {
		var fs unix.Statfs_t
		if err := unix.Statfs(folder, &fs); err != nil {
			return fmt.Errorf("look at control group %s: %w", group, err)
		}
		if fs.Type != unix.CGROUP2_SUPER_MAGIC {
			break
		}
		depth++
	}
	if depth--; depth > maxDepth { // the topmost is the root
		return fmt.Errorf("control group %s is %d levels deep, and podid supports %d: "+
			"set the kubelet's cgroupRoot to a group that is higher up", group, depth, maxDepth)
	}
	return nil
}

// mounted returns an error with the remedy unless a BPF file system is mounted on a folder.
func mounted(folder string) error {
	const remedy = "mount one on the node (mount -t bpf bpf /sys/fs/bpf), " +
		"and give it to podid's container as a hostPath volume that it can write"
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("look at %s: %w: %s", folder, err, remedy)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("no BPF file system on %s: %s", folder, remedy)
	}
	return nil
}

// pinnedLink returns the link of a pin. An error is os.ErrNotExist if the pin is not there.
func pinnedLink(pin string) (link.Link, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		if err := mounted(filepath.Dir(filepath.Dir(pin))); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, explain(fmt.Errorf("read pin %s: %w", pin, err))
	}
	return l, nil
}

// loadCollection loads programs and maps, with the pinned maps of an earlier process. Maps of
// another shape are replaced.
func loadCollection(spec *ebpf.CollectionSpec, pins string) (*ebpf.Collection, error) {
	options := ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pins}}
	all, err := ebpf.NewCollectionWithOptions(spec, options)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		for name := range spec.Maps {
			if err := removePin(filepath.Join(pins, name)); err != nil {
				return nil, err
			}
		}
		all, err = ebpf.NewCollectionWithOptions(spec, options)
	}
	if err != nil {
		return nil, explain(fmt.Errorf("load BPF programs: %w", err))
	}
	return all, nil
}

// attach puts one program on the group, or replaces the pinned one, also if that is on another
// group.
func (h *Hook) attach(name string, at ebpf.AttachType) error {
	program, pin := h.all.Programs[name], filepath.Join(h.pins, name)
	old, err := pinnedLink(pin)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return h.attachNew(name, at, pin)
	case err != nil:
		return err
	}
	defer func() { _ = old.Close() }() // the pin keeps it
	if same, err := onGroup(old, h.group); err != nil || !same {
		return h.attachInstead(name, at, pin)
	}
	if err := old.Update(program); err != nil {
		return explain(fmt.Errorf("replace %s: %w", name, err))
	}
	return nil
}

// attachNew puts one program on the group and pins it.
func (h *Hook) attachNew(name string, at ebpf.AttachType, pin string) error {
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: h.group, Attach: at, Program: h.all.Programs[name]})
	if err != nil {
		return explain(fmt.Errorf("attach %s to %s: %w", name, h.group, err))
	}
	defer func() { _ = attached.Close() }() // the pin keeps it
	if err := attached.Pin(pin); err != nil {
		return explain(fmt.Errorf("pin %s: %w", name, err))
	}
	return nil
}

// attachInstead is attachNew where another group's program has the pin. If the process ends on the
// way, one of the two stays.
func (h *Hook) attachInstead(name string, at ebpf.AttachType, pin string) error {
	if err := detach(pin + moving); err != nil {
		return err
	}
	if err := h.attachNew(name, at, pin+moving); err != nil {
		return err
	}
	if err := os.Rename(pin+moving, pin); err != nil {
		return fmt.Errorf("replace %s of another control group: %w", name, err)
	}
	return nil
}

// onGroup reports whether a link is on the control group.
func onGroup(l link.Link, group string) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read link: %w", err)
	}
	id, err := GroupID(group)
	if err != nil {
		return false, err
	}
	on := info.Cgroup()
	return on != nil && on.CgroupId == id, nil
}

// Elsewhere reports whether connect4 and connect6 of another process are in place, on another
// control group than this one.
func Elsewhere(group, pins string) (bool, error) {
	for name := range attachTypes() {
		pinned, err := pinnedLink(filepath.Join(pins, name))
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		info, err := pinned.Info()
		_ = pinned.Close()
		if err != nil {
			return false, fmt.Errorf("read link of %s: %w", name, err)
		}
		on := info.Cgroup()
		id, err := GroupID(group)
		if err != nil || on == nil || on.CgroupId == 0 || on.CgroupId == id {
			return false, err
		}
	}
	return true, nil
}

// GroupID returns the ID of a control group of version 2, given its folder.
func GroupID(folder string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(folder, &stat); err != nil {
		return 0, fmt.Errorf("look at control group %s: %w", folder, err)
	}
	return stat.Ino, nil
}

// Publish makes connects in a network namespace, given its cookie, arrive at a listener in it.
func (h *Hook) Publish(cookie uint64, at netip.AddrPort) error {
	err := h.endpoints.Put(cookie, endpoint(at))
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("publish listener %s: %d network namespaces have one, and there is no room for more: "+
			"remove unused ones from the container runtime's folder: %w", at, maxEndpoints, err)
	}
	if err != nil {
		return fmt.Errorf("publish listener %s: %w", at, err)
	}
	return nil
}

// Withdraw makes connects in a network namespace fail, except in the node's own: there only those
// of captured pods do.
func (h *Hook) Withdraw(cookie uint64) error {
	if err := h.endpoints.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("withdraw listener: %w", err)
	}
	return nil
}

// Published returns the cookies of all namespaces with a published listener.
func (h *Hook) Published() ([]uint64, error) {
	cookies, err := keys[[endpointSize]byte](h.endpoints)
	if err != nil {
		return nil, fmt.Errorf("read listeners: %w", err)
	}
	return cookies, nil
}

// Count returns how often something happened since the maps were made.
func (h *Hook) Count(what Count) (uint64, error) {
	var perCPU []uint64
	if err := h.counts.Lookup(uint32(what), &perCPU); err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	total := uint64(0)
	for _, n := range perCPU {
		total += n
	}
	return total, nil
}

// Close closes the process's own references. The programs stay in place.
func (h *Hook) Close() { h.all.Close() }

// explain adds the remedy to errors that an operator can fix.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: it needs CAP_BPF and CAP_NET_ADMIN, and no program on a group above that excludes others", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: it needs Linux 5.14", err)
	}
	return err
}
