// Programs as processes: started, watched, and killed by their ID.
package faults_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a program that runs until it is killed.
type process struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{}
}

// start starts a program and appends its output to a file in dir.
func start(t testing.TB, dir, name, path string, env []string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(path, args...)
	p.cmd.Env, p.cmd.Dir = env, dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit is in its log
		close(p.ended)
	}()
	return p
}

// kill kills the process and its children, as a crash does.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-p.ended
}

// alive reports whether the process still runs.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// said returns the last lines of the process's output.
func (p *process) said(lines int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// crashed returns the output of a Go program's crash, or "" if it did not crash.
func (p *process) crashed() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	for _, sign := range []string{"\npanic: ", "\nfatal error: ", "WARNING: DATA RACE", "http: panic serving", "Observed a panic"} {
		if at := bytes.Index(text, []byte(sign)); at >= 0 {
			return fmt.Sprintf("%.3000s", text[at:])
		}
	}
	return ""
}

// alarm returns a timer's channel, for waits of a known length such as the time between two
// changes.
func alarm(d time.Duration) <-chan time.Time { return time.NewTimer(d).C }
