// The machine, without which the figures say little.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where it was measured, and what else it had to do.
type machine struct {
	CPUs      int     `json:"cpus"`
	Model     string  `json:"model"`
	Kernel    string  `json:"kernel"`
	Go        string  `json:"go"`
	MemoryMiB uint64  `json:"memoryMiB"`
	Date      string  `json:"date"`
	Busy      float64 `json:"busyBefore"` // percent of all CPUs, before the run
	BusyAfter float64 `json:"busyAfter"`  // and when it was over
}

// String is one line.
func (m machine) String() string {
	return fmt.Sprintf("%d CPUs (%s), %d MiB, Linux %s, %s, %s. Other work kept the CPUs %.0f %% busy before the run and %.0f %% after it.",
		m.CPUs, m.Model, m.MemoryMiB, m.Kernel, m.Go, m.Date, m.Busy, m.BusyAfter)
}

func describe(ctx context.Context) machine {
	m := machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly), Busy: busy(ctx)}
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

// busy is how much of the machine is in use now, in percent, over two seconds.
func busy(ctx context.Context) float64 {
	work, all := cpuTimes()
	pause(ctx, 2*time.Second)
	work2, all2 := cpuTimes()
	if all2 <= all {
		return 0
	}
	return 100 * float64(work2-work) / float64(all2-all)
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
