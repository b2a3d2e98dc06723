// Starting: in a network namespace, with its output in a log file, outliving the command that started it.
package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/podid-io/podid/internal/sandbox/netns"
)

// Spec says how to start one process.
type Spec struct {
	// Name is the component's name; its log is called Name.log.
	Name string
	Path string
	Args []string
	// Env is the whole environment; a process of the sandbox inherits nothing from the shell of whoever started it.
	Env []string
	// Namespace is the network namespace to be born in.
	Namespace netns.Namespace
	// Log is the file that takes standard output and error; it is appended to.
	Log string
}

// Start starts the process in a session of its own and returns at once. Nobody waits for it: when this command ends, the
// machine's init inherits it. While this command still runs, reap ends it as a zombie.
func Start(s Spec) (ID, error) {
	if err := os.MkdirAll(filepath.Dir(s.Log), 0o755); err != nil {
		return ID{}, fmt.Errorf("start %s: %w", s.Name, err)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return ID{}, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(s.Path, s.Args...) //nolint:noctx // it outlives this command; `down` ends it
	cmd.Env = s.Env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var id ID
	err = s.Namespace.Do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		var err error
		id, err = Identify(cmd.Process.Pid)
		return err
	})
	if err != nil {
		return ID{}, fmt.Errorf("start %s: %w", s.Name, err)
	}
	go func() { _ = cmd.Wait() }() // reaps it, should it end before this command does
	return id, nil
}
