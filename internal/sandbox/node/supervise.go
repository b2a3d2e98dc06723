// The children of pid 1. One reaper waits for all of them because pid 1 also inherits orphans.
// os/exec, which waits for its own children, is therefore not used here.

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartPause is the time between the end of a service and its next start.
const restartPause = time.Second

// supervisor owns all children. The caller that starts one waits on a channel, to which the reaper
// delivers the exit status.
type supervisor struct {
	ctx context.Context //nolint:containedctx // the node's life, not a call's
	log *slog.Logger
	env []string

	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
}

func newSupervisor(ctx context.Context, log *slog.Logger, env []string) *supervisor {
	s := &supervisor{ctx: ctx, log: log, env: env, waiting: map[int]chan unix.WaitStatus{}}
	children := make(chan os.Signal, 1) // one is enough: a signal means "look", not "one child"
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for {
			select {
			case <-children:
				s.reap()
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// reap collects all ended children. It holds the lock over wait and delivery, so that a child
// cannot end between its start and its entry in the table.
func (s *supervisor) reap() {
	for {
		s.mu.Lock()
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == nil && pid > 0 {
			if c, ok := s.waiting[pid]; ok {
				delete(s.waiting, pid)
				c <- status // has room for it
			}
		}
		s.mu.Unlock()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// launch starts a process and returns the channel that receives its exit status.
func (s *supervisor) launch(path string, argv []string, log *os.File) (<-chan unix.WaitStatus, int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = null.Close() }()
	ended := make(chan unix.WaitStatus, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   s.env,
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, 0, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	s.waiting[pid] = ended
	return ended, pid, nil
}

// runToEnd runs a program and waits for its end.
func (s *supervisor) runToEnd(ctx context.Context, path string, argv []string, log *os.File) error {
	ended, pid, err := s.launch(path, argv, log)
	if err != nil {
		return err
	}
	select {
	case status := <-ended:
		if status.ExitStatus() != 0 {
			return fmt.Errorf("%s ended with status %d", argv[0], status.ExitStatus())
		}
		return nil
	case <-ctx.Done():
		_ = unix.Kill(pid, unix.SIGKILL)
		return ctx.Err()
	}
}

// supervise runs a service as long as the node lives.
func (s *supervisor) supervise(svc Service, log *os.File) {
	go func() {
		for {
			argv := append([]string{svc.Name}, svc.Args...)
			ended, pid, err := s.launch(svc.Path, argv, log)
			if err != nil {
				s.log.Error("service does not start", "service", svc.Name, "error", err)
			} else {
				s.log.Info("service started", "service", svc.Name, "pid", pid)
				select {
				case status := <-ended:
					s.log.Error("service ended, starting it again", "service", svc.Name, "status", int(status))
				case <-s.ctx.Done():
					return
				}
			}
			select {
			case <-time.After(restartPause):
			case <-s.ctx.Done():
				return
			}
		}
	}()
}
