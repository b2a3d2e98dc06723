package hooktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
	if _, err := os.Stat(filepath.Join(Unified(t), left[0])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its control group: %v", err)
	}
	Groups(t)
	if _, err := os.Stat(own); err != nil {
		t.Errorf("the control group of a running test: %v", err)
	}
}
