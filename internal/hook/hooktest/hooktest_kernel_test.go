package hooktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/testnet"
)

func TestMain(m *testing.M) { Main(m) }

// killVariable makes TestKilled kill its own process.
const killVariable = "PODID_TEST_KILL"

// TestKilled: nothing is left of a test that was killed, once another one makes control groups.
func TestKilled(t *testing.T) {
	testnet.Require(t)
	if os.Getenv(killVariable) != "" {
		top, pins, namespaces := Groups(t), Pins(t), NewNamespaces(t)
		Group(t, top, "kubepods", "pod1")
		if err := os.Mkdir(pins, 0o700); err != nil {
			t.Fatal(err)
		}
		namespaces.Add("pod1", testnet.New(t))
		if _, err := os.Stdout.WriteString(filepath.Base(top) + separator + namespaces.Folder + separator); err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	command.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, mountsVariable) })
	command.Env = append(command.Env, killVariable+"=yes")
	out, err := command.Output()
	var exit *exec.ExitError
	left := strings.Split(string(out), separator)
	if !errors.As(err, &exit) || len(left) != 3 {
		t.Fatalf("the killed test: %v: %s", err, out)
	}
	defer func() { _ = os.RemoveAll(filepath.Dir(left[1])) }()

	own := Groups(t)
	// The process that started this one is in the machine's mount namespace.
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", os.Getppid()))
	if err != nil || strings.Contains(string(mounts), left[1]) {
		t.Errorf("mounts of the machine: %v:\n%s", err, mounts)
	}
	gone := func(context.Context) (bool, error) {
		_, err := os.Stat(filepath.Join(Unified(t), left[0]))
		return errors.Is(err, os.ErrNotExist), nil
	}
	// A test of another package may be removing it, and is not done yet.
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 20*time.Second, true, gone); err != nil {
		t.Errorf("its control group: %v", err)
	}
	Groups(t)
	if _, err := os.Stat(own); err != nil {
		t.Errorf("the control group of a running test: %v", err)
	}
}

// TestGroupsAtOnce: tests of several packages make control groups while others remove stale ones. A
// new group is stale until it is locked.
func TestGroupsAtOnce(t *testing.T) {
	testnet.Require(t)
	root := Unified(t)
	stop := make(chan struct{})
	var making, removing sync.WaitGroup
	for range 2 {
		removing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					removeStale(root)
				}
			}
		})
		making.Go(func() {
			for range 300 {
				top, lock, err := lockedGroup(root)
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.Remove(top); err != nil {
					t.Errorf("a group that is locked: %v", err)
				}
				_ = lock.Close()
			}
		})
	}
	making.Wait()
	close(stop)
	removing.Wait()
	removeStale(root) // what was locked to remove it, when another one removed it
}
