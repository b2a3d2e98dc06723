package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/testnet"
)

// Groups are created within this process's permissions, accept a process, and are removed when it
// has ended.
func TestGroups(t *testing.T) {
	testnet.Require(t)
	layout, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	sandbox := fmt.Sprintf("test-%d", os.Getpid())
	t.Cleanup(func() {
		for _, base := range layout.Bases(sandbox) {
			if err := Remove(base, 5*time.Second); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(base); err == nil {
				t.Errorf("%s is left behind", base)
			}
		}
	})
	groups, err := layout.Make(sandbox, "node-0")
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != len(layout.Hierarchies) {
		t.Errorf("%d groups in %d hierarchies", len(groups), len(layout.Hierarchies))
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for _, g := range groups {
		procs := filepath.Join(g, "cgroup.procs")
		if err := os.WriteFile(procs, fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
		pids, err := Processes(filepath.Dir(g))
		if err != nil || !slices.Contains(pids, cmd.Process.Pid) {
			t.Errorf("in %s are %v, %v", g, pids, err)
		}
	}
	if err := Remove(groups[0], 50*time.Millisecond); err == nil {
		t.Error("a group with a process in it is removed")
	}
}
