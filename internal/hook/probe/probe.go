// Package probe proves that what a pod connects to the metadata service arrives at podid.
//
// A program of its own is started in a network namespace and a control group that are made for it,
// below the group of all pods. It connects as a pod does, and has to meet a listener in its own
// namespace, which is published as a pod's is. That the programs are attached would prove less:
// another program, a security module or a kernel's fault can come before them. The namespace has
// nothing but a loopback device, so no packet can leave, whatever happens.
package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Endpoints are the published listeners. *program.Hook implements it.
type Endpoints interface {
	Publish(cookie uint64, at netip.AddrPort) error
	Withdraw(cookie uint64) error
}

// timeout bounds a probe, which takes some 50 ms.
const timeout = 10 * time.Second

// groupPrefix is what the names of the probes' control groups begin with. It is no name of the
// kubelet's.
const groupPrefix = "podid-probe-"

// Run connects to the metadata service as a pod would. pods is the folder of the pods' control
// group. The error says where the connection went instead.
func Run(ctx context.Context, pods string, metadata netip.AddrPort, endpoints Endpoints) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	group, remove, err := makeGroup(pods)
	if err != nil {
		return err
	}
	defer remove() // after the program has ended
	defer func() { _ = group.Close() }()
	p, err := start(ctx, group, metadata)
	if err != nil {
		return err
	}
	defer p.end()
	cookie, at, err := p.listener()
	if err != nil {
		return err
	}
	if err := endpoints.Publish(cookie, at); err != nil {
		return err
	}
	result := p.connect()
	return errors.Join(result, endpoints.Withdraw(cookie))
}

// makeGroup makes a control group for a probe, and removes those that earlier ones have left.
func makeGroup(pods string) (group *os.File, remove func(), err error) {
	left, err := filepath.Glob(filepath.Join(pods, groupPrefix+"*"))
	if err != nil {
		return nil, nil, fmt.Errorf("list control groups of earlier probes: %w", err)
	}
	for _, folder := range left {
		_ = os.Remove(folder) // one that is in use stays
	}
	folder := filepath.Join(pods, groupPrefix+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make a control group for a probe: %w: give podid the node's control groups (--cgroup-dir) for writing", err)
	}
	if group, err = os.Open(folder); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the control group of a probe: %w", err), os.Remove(folder))
	}
	return group, func() { _ = os.Remove(folder) }, nil // else the next probe does
}

// running is the program that connects.
type running struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts this program as the one that connects.
func start(ctx context.Context, group *os.File, metadata netip.AddrPort) (*running, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{name, metadata.String()}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, fmt.Errorf("start a probe among the pods: %w", err)
	}
	return &running{cmd: cmd, in: in, out: bufio.NewReader(out)}, nil
}

func (r *running) end() {
	_ = r.in.Close()
	_ = r.cmd.Process.Kill() // it may have ended
	_ = r.cmd.Wait()
}

// line reads a line of what the program reports. A line that begins with "error " is an error.
func (r *running) line() (string, error) {
	text, err := r.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the probe has ended without a result: %w", err)
	}
	if text, failed := strings.CutPrefix(strings.TrimSpace(text), errorPrefix); failed {
		return "", errors.New(text)
	}
	return strings.TrimSpace(text), nil
}

// listener waits for the program's listener.
func (r *running) listener() (cookie uint64, at netip.AddrPort, err error) {
	text, err := r.line()
	if err != nil {
		return 0, at, fmt.Errorf("prepare a probe among the pods: %w", err)
	}
	namespace, address, _ := strings.Cut(text, " ")
	cookie, err1 := strconv.ParseUint(namespace, 10, 64)
	at, err2 := netip.ParseAddrPort(address)
	if err := errors.Join(err1, err2); err != nil {
		return 0, at, fmt.Errorf("prepare a probe among the pods: %w", err)
	}
	return cookie, at, nil
}

// connect lets the program connect, and returns what it met instead of its listener.
func (r *running) connect() error {
	if _, err := io.WriteString(r.in, "connect\n"); err != nil {
		return fmt.Errorf("let the probe connect: %w", err)
	}
	if _, err := r.line(); err != nil {
		return fmt.Errorf("a probe among the pods did not arrive at podid: %w: another program or a security module of the node comes first", err)
	}
	return nil
}
