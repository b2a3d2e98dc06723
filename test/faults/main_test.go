// Package faults_test proves that MIC survives what goes wrong: it is killed, the API server goes away, Azure is ill,
// and people change things on Azure by hand, all while pods, bindings and identities come and go, a hostile tenant names
// what is not its own, and the policy changes. At no moment may a pod be assigned, or get a token of, what bindings and
// policy do not give it. Afterwards everything must be as the objects in the cluster say, and nothing that others assigned may ever have
// been taken away.
//
// The parts are real: etcd, kube-apiserver, bin/mic as processes, and the emulated Azure. There are no kubelets; for
// MIC a pod is an object. Every story has a control plane of its own.
//
//	make test-sandbox                                        the quick variant, with the stories of test/scenario
//	make test-faults                                         the long one
//	PODID_FAULTS_SEED=7 make test-faults                     the same histories again, as a failed run printed them
//	PODID_TEST_SANDBOX=1 go test -count=1 -run 'TestFaults/killed' ./test/faults
//
// A run draws a seed and prints it; one of the stories has the same seed in every quick run. What is random comes from
// the seed: the history of the cluster, and the moments at which things break. What the
// machine makes of it differs from run to run.
//
// The files: stories_test.go tells the stories. history_test.go makes up what happens in the cluster, people_test.go on
// Azure, hostile_test.go what the tenant does. rest_test.go, moments_test.go, tokens_test.go and arm_test.go are the
// judges: pure functions of what was found, with table tests of their own.
// rig_test.go and process_test.go start and end the parts.
package faults_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The environment that steers the tests.
const (
	envTest = "PODID_TEST_SANDBOX"
	envSeed = "PODID_FAULTS_SEED"
	envLong = "PODID_FAULTS_LONG"
	// envInside is set for the test program in namespaces of its own: the network namespace that it was started from.
	envInside = "PODID_FAULTS_INSIDE"
)

func TestMain(m *testing.M) {
	if os.Getenv(envTest) == "" {
		os.Exit(m.Run())
	}
	outside := os.Getenv(envInside)
	if outside == "" {
		os.Exit(inside())
	}
	if err := furnish(outside); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inside runs this program again in namespaces of its own: a network without a way out, and processes that all end with
// it, however it ends.
func inside() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "error: the fault runs make namespaces: run them as root")
		return 1
	}
	net, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	runtime.LockOSThread() // a process dies with the thread that it asked to
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"="+net)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended) && ended.ExitCode() > 0: // the tests have told why themselves
		return ended.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
}

// furnish makes the namespaces fit for use: a /proc that shows the processes in here, and loopback.
func furnish(outside string) error {
	if net, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || net == outside {
		return fmt.Errorf("this is the machine's own network (%s): refusing to go on: %w", net, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}
