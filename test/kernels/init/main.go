// Command init is the first process of a virtual machine: it loads the modules, runs the test
// programs one after the other and turns the machine off. What it prints goes to the second serial
// port, as the first one has the kernel's messages.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/test/kernels/vm"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == runner {
		report(os.Stdout, runTests(context.Background()))
		return
	}
	err := prepare()
	out, openErr := os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err = errors.Join(err, openErr); err == nil {
		err = supervise(out)
	}
	report(out, err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// report prints an error in the form that the host looks for.
func report(out *os.File, err error) {
	if err != nil {
		_, _ = fmt.Fprint(out, vm.Trouble.Line(err.Error()))
	}
}

// mount is one file system that tests expect.
type mount struct{ kind, at string }

// prepare makes the machine one on which tests can run.
func prepare() error {
	for _, m := range []mount{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/tmp"},
		{"tmpfs", "/run"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"bpf", "/sys/fs/bpf"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.Chmod("/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}

// loadModules loads the listed modules in the order of the list.
func loadModules() error {
	list, err := os.Open(vm.ModuleList)
	if err != nil {
		return err
	}
	defer func() { _ = list.Close() }()
	for lines := bufio.NewScanner(list); lines.Scan(); {
		if err := loadModule(lines.Text()); err != nil {
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(file.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// runner is the argument of the process that runs the tests.
const runner = "run"

// supervise runs the tests in another process, and meanwhile reaps what they leave behind.
func supervise(out *os.File) error {
	self, err := os.StartProcess("/proc/self/exe", []string{"init", runner}, &os.ProcAttr{
		Dir: "/tmp", Files: []*os.File{nil, out, out},
		Env: []string{"PATH=/", "HOME=/tmp", "TMPDIR=/tmp", "PODID_TEST_KERNEL=1", "PODID_TEST_SLOW=1"},
	})
	if err != nil {
		return fmt.Errorf("start the tests: %w", err)
	}
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case ended == self.Pid && status.ExitStatus() != 0:
			return fmt.Errorf("the tests ended with status %d", status.ExitStatus())
		case ended == self.Pid:
			return nil
		}
	}
}

// runTests runs the listed test programs. The list has a program and its arguments in each line.
func runTests(ctx context.Context) error {
	list, err := os.ReadFile(vm.TestList)
	if err != nil {
		return err
	}
	var release unix.Utsname
	if err := unix.Uname(&release); err != nil {
		return os.NewSyscallError("uname", err)
	}
	fmt.Print(vm.Kernel.Line(unix.ByteSliceToString(release.Release[:])))
	for line := range strings.Lines(string(list)) {
		words := strings.Fields(line)
		fmt.Print(vm.Program.Line(filepath.Base(words[0])))
		test := exec.CommandContext(ctx, words[0], words[1:]...)
		test.Stdout, test.Stderr = os.Stdout, os.Stdout
		if err := test.Run(); err != nil {
			fmt.Print(vm.Exit.Line(err.Error()))
		}
	}
	fmt.Print(vm.End.Line(""))
	return nil
}
