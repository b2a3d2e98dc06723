// Package scenario_test runs stories on a whole cluster: real control plane, nodes and pods, podid
// installed from its chart, and an emulated Azure that records requests.
//
// One sandbox serves all stories. The test program that `go test` starts only supervises: it brings
// the sandbox up, runs itself again for the stories, and takes the sandbox down however they end,
// including by a panic, a timeout or an interrupt. When working on a story, keep the sandbox (KEEP
// names it; its second use takes seconds), or run one story in an existing sandbox (SANDBOX names
// it):
//
//	PODID_TEST_SANDBOX=1 PODID_SCENARIO_KEEP=mine go test -count=1 ./test/scenario
//	PODID_TEST_SANDBOX=1 PODID_SCENARIO_SANDBOX=mine go test -count=1 -run 'TestStories/an_exception' ./test/scenario
//	bin/podid sandbox down --name mine
//
// The nodes' data plane and NMI's --capture are those of PODID_SCENARIO_DATAPLANE and
// PODID_SCENARIO_CAPTURE; see `podid sandbox demo --help` and `make test-planes`. So many processes
// of agents are killed as PODID_SCENARIO_KILLS says.
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

// The environment variables of the tests; see the package comment.
const (
	envTest    = "PODID_TEST_SANDBOX"
	envSandbox = "PODID_SCENARIO_SANDBOX"
	envKeep    = "PODID_SCENARIO_KEEP"
	// The data plane and the way of capture. Both have defaults.
	envDataplane = "PODID_SCENARIO_DATAPLANE"
	envCapture   = "PODID_SCENARIO_CAPTURE"
	// envProgress names a pipe or terminal for the progress, because `go test` captures standard
	// error.
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
	case errors.As(err, &ended) && ended.ExitCode() > 0: // the stories have printed the reason
		os.Exit(ended.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// progressFile returns where progress goes: the pipe or terminal that the environment names, else
// standard error. It rejects a regular file because other writers that have it open would overwrite
// the output.
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

// namePrefix starts the names of these tests' sandboxes, followed by the ID of the supervising
// process.
const namePrefix = "scenario-"

// lookAfter keeps a sandbox up while the stories run.
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

// removeStale removes the sandboxes of earlier runs whose supervisor has ended.
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
