// Package faults_test proves that MIC survives failures: it is killed, and the API server goes
// away, while pods, bindings and identities come and go, a hostile tenant names what is not its
// own, and the policy changes. At no moment may a pod be assigned, or get a token of, what bindings
// and policy do not grant. In the end everything must match the objects in the cluster, and nothing
// that others assigned may ever have been removed. An Azure that fails, and other clients that
// change it, are part of internal/controllers/model.
//
// The parts are real: etcd, kube-apiserver, bin/mic as processes, and the emulated Azure. There are
// no kubelets; for MIC a pod is an object. Every story has its own control plane.
//
//	make test-sandbox                                        the quick variant, with the stories of test/scenario
//	make test-faults                                         the long one
//	PODID_FAULTS_SEED=7 make test-faults                     the same histories again, as a failed run printed them
//	PODID_TEST_SANDBOX=1 go test -count=1 -run 'TestFaults/killed' ./test/faults
//
// A run chooses and prints a seed. One story has a fixed seed in every quick run. The seed
// determines the history of the cluster and the times of the failures; the scheduling of the
// machine still differs from run to run.
//
// stories_test.go has the stories. history_test.go generates the changes in the cluster,
// hostile_test.go those of the tenant. rest_test.go,
// moments_test.go, tokens_test.go and arm_test.go check the results: pure functions of what was
// observed, with their own table tests. rig_test.go and process_test.go start and stop the parts.
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

// The environment variables of the tests.
const (
	envTest = "PODID_TEST_SANDBOX"
	envSeed = "PODID_FAULTS_SEED"
	envLong = "PODID_FAULTS_LONG"
	// envInside is set for the test program in its own namespaces, to the network namespace that it
	// was started from.
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

// inside runs this program again in its own namespaces: a network without a way out, and processes
// that all end with it, however it ends.
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
	runtime.LockOSThread() // Pdeathsig follows the thread
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
	case errors.As(err, &ended) && ended.ExitCode() > 0: // the tests have printed the reason
		return ended.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
}

// furnish prepares the namespaces: /proc with the processes in here, and loopback.
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
