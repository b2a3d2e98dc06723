// The programs, as processes.

package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/podid-io/podid/test/bench/measure"
)

const (
	// readyTime is how long a program may take to become ready, endTime to end after a termination
	// signal.
	readyTime = 60 * time.Second
	endTime   = 20 * time.Second
	askEvery  = 20 * time.Millisecond
)

// Program is a running process.
type Program struct {
	name  string
	cmd   *exec.Cmd
	log   string // its standard error
	Began time.Time
	ended chan struct{}
	out   *bufio.Reader
	in    io.WriteCloser
}

// Launch describes how to start a program.
type Launch struct {
	Name, Path string
	Args, Env  []string
	// Logs is the folder for its standard error.
	Logs string
	// Talks makes its standard output available through Out, which must be read. Otherwise it goes to
	// the same file.
	Talks bool
	// OwnNetwork starts it in its own network namespace, with only a loopback device that is down.
	OwnNetwork bool
	// Group is the folder of the control group, of version 2, in which it starts; none for this
	// program's own.
	Group *os.File
	// Files are open in it as descriptors 3, 4, ….
	Files []*os.File
}

// Start starts a program. It does not outlive this one.
func (l Launch) Start() (*Program, error) {
	p := &Program{name: l.Name, log: filepath.Join(l.Logs, l.Name+".log"), ended: make(chan struct{})}
	file, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", l.Name, err)
	}
	defer func() { _ = file.Close() }()
	p.cmd = exec.Command(l.Path, l.Args...) //nolint:noctx // ended by Stop, which asks it first
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), l.Env...), file
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.ExtraFiles = l.Files
	if l.OwnNetwork {
		p.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	if l.Group != nil {
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(l.Group.Fd())
	}
	out, print, err1 := os.Pipe() // not exec's, which must be read to its end before the process is waited for
	in, err2 := p.cmd.StdinPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("start %s: %w", l.Name, err)
	}
	if p.cmd.Stdout = print; !l.Talks {
		p.cmd.Stdout = file
	}
	p.out, p.in, p.Began = bufio.NewReader(out), in, time.Now()
	err = p.start()
	_ = print.Close()
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start %s: %w", l.Name, err)
	}
	return p, nil
}

// start starts the process from a thread that lives as long: at the end of that thread the kernel
// would kill the process, and threads that enter another namespace end early.
func (p *Program) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // the exit status is irrelevant: the figures show whether it worked
			close(p.ended)
		}
	}()
	return <-started
}

// PID returns the process ID.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Out returns the program's standard output.
func (p *Program) Out() *bufio.Reader { return p.out }

// In returns the program's standard input.
func (p *Program) In() io.Writer { return p.in }

// CloseIn closes the program's standard input.
func (p *Program) CloseIn() error { return p.in.Close() }

// Ended returns a channel that is closed when the program has ended.
func (p *Program) Ended() <-chan struct{} { return p.ended }

// Signal sends a signal.
func (p *Program) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop closes the program's standard input, sends the signal and waits for the end. It is no error
// if the program has ended already.
func (p *Program) Stop(signal os.Signal) error {
	_ = p.in.Close() // it may be closed already
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program prints its goroutines
	timer.Reset(time.Second)
	select {
	case <-p.ended:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	return fmt.Errorf("stop %s: it did not end within %s", p.name, endTime)
}

// Until polls an address until the response is want.
func (p *Program) Until(ctx context.Context, address, want string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("it took longer than %s", readyTime))
	defer cancel()
	again := time.NewTicker(askEvery)
	defer again.Stop()
	last := ""
	for {
		if body, err := Get(ctx, address); err == nil {
			if last = body; body == want {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-p.ended:
			return fmt.Errorf("%s has ended; its last words: %s", p.name, p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s to say %q: %w; it says %q", address, p.name, want, context.Cause(ctx), last)
		}
	}
}

// Get returns the body of the response of an address.
func Get(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// Log returns the program's standard error.
func (p *Program) Log() (string, error) {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return "", fmt.Errorf("read the log of %s: %w", p.name, err)
	}
	return string(text), nil
}

// Tail returns the end of the program's standard error.
func (p *Program) Tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-600):])
}

// Memory returns the program's current memory.
func (p *Program) Memory() (measure.Memory, error) { return measure.MemoryOf(p.PID()) }

// CPU returns the program's CPU time in seconds.
func (p *Program) CPU() (float64, error) { return measure.CPUOf(p.PID()) }
