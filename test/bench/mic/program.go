// The programs under test, as processes.

package main

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
	"strconv"
	"syscall"
	"time"

	"github.com/podid-io/podid/test/bench/measure"
)

const (
	// readyTime is how long a program may take to become ready, endTime to end after a termination
	// signal.
	readyTime = 30 * time.Second
	endTime   = 20 * time.Second
	askEvery  = 20 * time.Millisecond
)

// program is a running process.
type program struct {
	name  string
	cmd   *exec.Cmd
	log   string // its standard error
	began time.Time
	ended chan struct{}
	probe string // MIC's URL for health
}

// launch starts a program with its standard error in a file.
func (c *cluster) launch(name, path string, env []string, args ...string) (*program, io.Reader, error) {
	p := &program{name: name, log: filepath.Join(c.logs, name+".log"), ended: make(chan struct{})}
	file, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = file.Close() }()
	p.cmd = exec.Command(path, args...) //nolint:noctx // ended by stop, which asks it first
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), env...), file
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.programs = append(c.programs, p)
	lines := bufio.NewReader(out)
	return p, lines, nil
}

// await waits for the end of the process. Its output must not be read after that.
func (p *program) await() {
	go func() {
		_ = p.cmd.Wait() // the exit status is irrelevant: the figures show whether it worked
		close(p.ended)
	}()
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// stop sends the signal and waits for the end. It is no error if the program has ended already.
func (p *program) stop(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("stop %s: it did not end within %s", p.name, endTime)
	}
}

// mic starts MIC with its default flags, except for the addresses of the API server and Azure.
// offset moves its ports, because two instances in one network namespace cannot share the default
// ones.
func (c *cluster) mic(b *bench, name string, offset int) (*program, error) {
	args := []string{"--kubeconfig=" + c.micKubeconfig, "--cloudconfig=" + c.azureFile("azure.json")}
	probe := 8080 + offset
	if offset > 0 {
		args = append(args, "--http-probe-port="+strconv.Itoa(probe), "--prometheus-port="+strconv.Itoa(8888+offset))
	}
	if b.options.profile != "" && offset == 0 {
		args = append(args, "--enableProfile")
	}
	env := []string{"AZURE_ENVIRONMENT_FILEPATH=" + c.azureFile("azurestackcloud.json"), "SSL_CERT_FILE=" + c.azureFile("ca.crt")}
	p, _, err := c.launch(name, filepath.Join(b.options.bin, "mic"), env, append(args, b.options.micArgs...)...)
	if err != nil {
		return nil, err
	}
	p.probe = fmt.Sprintf("http://127.0.0.1:%d", probe)
	p.await()
	return p, nil
}

// until polls MIC's health until the response is want.
func (p *program) until(ctx context.Context, path, want string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("it took longer than %s", readyTime))
	defer cancel()
	again := time.NewTicker(askEvery)
	defer again.Stop()
	last := ""
	for {
		if body, err := get(ctx, p.probe+path); err == nil {
			if last = body; body == want {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-p.ended:
			return fmt.Errorf("%s has ended; its last words: %s", p.name, tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s to say %q: %w; it says %q", path, p.name, want, context.Cause(ctx), last)
		}
	}
}

// leads returns when MIC leads and its dependencies respond.
func (p *program) leads(ctx context.Context) error {
	if err := p.until(ctx, "/healthz", "Active"); err != nil {
		return err
	}
	return p.ready(ctx)
}

func (p *program) ready(ctx context.Context) error { return p.until(ctx, "/readyz", "ok") }

func get(ctx context.Context, address string) (string, error) {
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

// tail returns the end of a file.
func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-500):])
}

// memory returns MIC's current memory.
func (p *program) memory() (measure.Memory, error) { return measure.MemoryOf(p.pid()) }

// cpu returns MIC's CPU time in seconds.
func (p *program) cpu() (float64, error) { return measure.CPUOf(p.pid()) }
