// Running virtual machines.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/podid-io/podid/test/kernels/vm"
)

// host runs virtual machines, one at a time.
type host struct {
	store, work string
	programs    []program
	limit       time.Duration
	partial     bool // not all tests
}

func newHost(limit time.Duration) (*host, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	h := &host{store: filepath.Join(cache, "podid", "kernels"), limit: limit}
	if err := os.MkdirAll(h.store, 0o755); err != nil {
		return nil, err
	}
	h.work, err = os.MkdirTemp("", "podid-kernels-")
	return h, err
}

func (h *host) close() { _ = os.RemoveAll(h.work) }

// test runs the tests on a kernel.
func (h *host) test(ctx context.Context, k kernel) result {
	dir, err := fetch(ctx, h.store, k)
	if err != nil {
		return result{kernel: k, missing: err}
	}
	initrd, log := filepath.Join(h.work, "initrd"), filepath.Join(h.store, k.name+".log")
	b, err := newBoot(dir)
	if err == nil {
		err = h.pack(initrd, b)
	}
	if err != nil {
		return result{kernel: k, trouble: err}
	}
	fmt.Printf("..    %s: running the tests (log: %s)\n", k.name, log)
	begin := time.Now()
	out, err := h.boot(ctx, b.image, initrd, log)
	r := read(out)
	r.kernel, r.took, r.partial = k, time.Since(begin), h.partial
	r.trouble = errors.Join(r.trouble, err)
	fmt.Print(r.details())
	return r
}

// pack writes the file system of the machine.
func (h *host) pack(file string, b boot) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	c := newCPIO(out)
	var modules, tests strings.Builder
	for _, folder := range []string{"proc", "sys", "dev", "tmp", "run"} {
		err = errors.Join(err, c.folder(folder))
	}
	err = errors.Join(err, c.file(vm.Init, filepath.Join(h.work, "init")))
	for _, m := range b.load {
		fmt.Fprintf(&modules, "/modules/%s\n", m)
		err = errors.Join(err, c.file(filepath.Join("modules", m), filepath.Join(b.modules, m)))
	}
	for _, p := range h.programs {
		fmt.Fprintf(&tests, "/tests/%s -test.v -test.timeout=10m -test.run=^(%s)$\n", p.name, strings.Join(p.tests, "|"))
		err = errors.Join(err, c.file("tests/"+p.name, p.file))
	}
	err = errors.Join(err, c.text(vm.ModuleList[1:], modules.String()), c.text(vm.TestList[1:], tests.String()), c.close())
	if err != nil {
		return fmt.Errorf("make the machine's file system: %w", err)
	}
	return out.Close()
}

// boot runs a machine until it turns itself off, and returns what init printed, which is also in
// the log. The kernel's messages are in another file beside it.
func (h *host) boot(ctx context.Context, image, initrd, log string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, h.limit)
	defer cancel()
	out, err := os.Create(log)
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-nic", "none",
		"-display", "none", "-monitor", "none", "-no-reboot",
		"-serial", "file:"+strings.TrimSuffix(log, ".log")+".console.log", "-serial", "stdio",
		"-kernel", image, "-initrd", initrd, "-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("the machine did not end within %v", h.limit)
	}
	text, readErr := os.ReadFile(log)
	return strings.ReplaceAll(string(text), "\r", ""), errors.Join(err, readErr)
}
