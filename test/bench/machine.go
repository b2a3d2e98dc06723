// The machine, without which the figures say little.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
)

// machine is where it was measured.
type machine struct {
	CPUs      int    `json:"cpus"`
	Model     string `json:"model"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	MemoryMiB uint64 `json:"memoryMiB"`
	Date      string `json:"date"`
}

// String is one line.
func (m machine) String() string {
	return fmt.Sprintf("%d CPUs (%s), %d MiB, Linux %s, %s, %s", m.CPUs, m.Model, m.MemoryMiB, m.Kernel, m.Go, m.Date)
}

func describe() machine {
	m := machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly)}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = uint64(info.Totalram) * uint64(info.Unit) >> 20 //nolint:unconvert // narrower on some machines
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.Model = cpuModel(string(text))
	}
	return m
}

func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// meter begins to measure what else the machine has to do; the function it returns tells how much of all CPUs that took,
// in percent. What belongs to the benchmark is known by its control groups, or is this process.
func (b *bench) meter(ctx context.Context) func(context.Context) float64 {
	own := b.ownCPU(ctx)
	work, all := cpuTimes()
	return func(ctx context.Context) float64 {
		own := b.ownCPU(ctx) - own
		work2, all2 := cpuTimes()
		if all2 <= all {
			return 0
		}
		return 100 * max(float64(work2-work)-own*ticksPerSecond, 0) / float64(all2-all)
	}
}

// ownCPU is what the sandbox and this process have used, in seconds.
func (b *bench) ownCPU(ctx context.Context) float64 {
	var u unix.Rusage
	used := 0.0
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		used = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	if layout, err := cgroup.Detect(); err == nil {
		used += groupCPU(layout.Bases(b.options.name))
	}
	status, err := b.sandbox.Status(ctx)
	if err != nil {
		return used
	}
	for _, c := range status.Components {
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID))
		if err != nil || strings.Contains(string(groups), "/podid-"+b.options.name) {
			continue // counted with its group
		}
		if seconds, err := cpuOf(c.PID); err == nil {
			used += seconds
		}
	}
	return used
}

// groupCPU is what a control group has used, in seconds; dirs are its folders in the hierarchies, one of which counts.
func groupCPU(dirs []string) float64 {
	for _, dir := range dirs {
		if text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil { // v1
			if nanos, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil {
				return nanos / 1e9
			}
		}
		text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "usage_usec" { // v2
				if micros, err := strconv.ParseFloat(f[1], 64); err == nil {
					return micros / 1e6
				}
			}
		}
	}
	return 0
}

// cpuTimes adds up the first line of /proc/stat: user nice system idle iowait irq softirq steal.
func cpuTimes() (work, all int64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil || i > 8 {
			continue // the name, and guests, which count as user already
		}
		all += n
		if i != 4 && i != 5 {
			work += n
		}
	}
	return work, all
}
