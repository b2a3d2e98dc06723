// Package scenario_test tells stories of the product on a whole cluster: real control plane, nodes and pods, the product
// installed from its chart, real SDK clients, and an emulated Azure that writes down what it was asked.
//
// One sandbox serves all stories. The test program that `go test` starts only looks after it: it brings the sandbox up,
// runs itself again for the stories, and takes the sandbox down however they end, also by a panic, a timeout or an
// interrupt. Who works on a story keeps the sandbox (KEEP names it; its second use takes seconds), or tells one story in
// a sandbox that is there (SANDBOX names it) as it is:
//
//	PODID_TEST_SANDBOX=1 PODID_SCENARIO_KEEP=mine go test -count=1 ./test/scenario
//	PODID_TEST_SANDBOX=1 PODID_SCENARIO_SANDBOX=mine go test -count=1 -run 'TestStories/an_exception' ./test/scenario
//	bin/podid sandbox down --name mine
package scenario_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// The environment that steers the tests; see the package comment.
const (
	envTest    = "PODID_TEST_SANDBOX"
	envSandbox = "PODID_SCENARIO_SANDBOX"
	envKeep    = "PODID_SCENARIO_KEEP"
	// envProgress names a pipe or terminal for the progress, since `go test` keeps standard error to itself.
	envProgress = "PODID_TEST_PROGRESS"
)

func TestMain(m *testing.M) {
	if os.Getenv(envTest) == "" || os.Getenv(envSandbox) != "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	err := lookAfter(ctx)
	stop()
	var ended *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &ended) && ended.ExitCode() > 0: // the stories have told why themselves
		os.Exit(ended.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// progressFile is where progress goes: a pipe or terminal that the environment names, else standard error. (Not a file:
// whoever else has it open would write over what is added here.)
func progressFile() *os.File {
	name := os.Getenv(envProgress)
	if info, err := os.Stat(name); err != nil || info.Mode().IsRegular() {
		return os.Stderr
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return os.Stderr
	}
	return f
}

// namePrefix starts the names of the sandboxes of these tests; the process that looks after it follows.
const namePrefix = "scenario-"

// lookAfter keeps a sandbox for as long as the stories run.
func lookAfter(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("a sandbox makes network namespaces and mounts: run this as root")
	}
	if err := os.Setenv("PODID_KUBERNETES", "source"); err != nil { // tests never download it
		return err
	}
	report := progress.New(progressFile())
	name, keep := os.Getenv(envKeep), true
	if name == "" {
		name, keep = namePrefix+strconv.Itoa(os.Getpid()), false
	}
	if err := removeStale(report); err != nil {
		return err
	}
	s, err := sandbox.New(name, report)
	if err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, down(s, report)) }()
	}
	if err := prepare(ctx, s, report); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	stories := exec.CommandContext(ctx, self, os.Args[1:]...)
	stories.Env = append(os.Environ(), envSandbox+"="+name)
	stories.Stdout, stories.Stderr = os.Stdout, os.Stderr
	stories.Cancel = func() error { return stories.Process.Signal(syscall.SIGTERM) }
	stories.WaitDelay = 5 * time.Second
	return stories.Run()
}

func down(s *sandbox.Sandbox, report *progress.Reporter) error {
	step := report.Start("take the sandbox down")
	if _, err := s.Down(); err != nil {
		step.Fail()
		return err
	}
	step.Done("")
	return nil
}

// removeStale removes the sandboxes of earlier runs that nobody looks after any more.
func removeStale(report *progress.Reporter) error {
	layout, err := sandbox.NewLayout(namePrefix + "0")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(layout.Dir()))
	if err != nil {
		return nil //nolint:nilerr // no folder, no sandboxes
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(strings.TrimPrefix(e.Name(), namePrefix))
		if err != nil || !strings.HasPrefix(e.Name(), namePrefix) || syscall.Kill(pid, 0) == nil {
			continue
		}
		s, err := sandbox.New(e.Name(), report)
		if err != nil {
			return err
		}
		report.Say("removing sandbox %q, which an earlier test left", e.Name())
		if err := down(s, report); err != nil {
			return err
		}
	}
	return nil
}
