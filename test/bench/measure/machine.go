// The machine that the figures depend on.

package measure

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine describes the machine of a measurement.
type Machine struct {
	CPUs      int    `json:"cpus"`
	Model     string `json:"model"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	MemoryMiB uint64 `json:"memoryMiB"`
	Date      string `json:"date"`
}

// String returns a description on one line.
func (m Machine) String() string {
	return fmt.Sprintf("%d CPUs (%s), %d MiB, Linux %s, %s, %s", m.CPUs, m.Model, m.MemoryMiB, m.Kernel, m.Go, m.Date)
}

// Describe returns the properties of this machine.
func Describe() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly)}
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

// CPUTimes adds up the first line of /proc/stat, user nice system idle iowait irq softirq steal, in
// ticks.
func CPUTimes() (work, all int64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil || i > 8 {
			continue // the name, and guest times, which user includes
		}
		all += n
		if i != 4 && i != 5 {
			work += n
		}
	}
	return work, all
}

// Meter starts to measure the CPU time of other programs on the machine. The function it returns
// reports that time as a percentage of all CPUs. own returns the CPU seconds that the benchmark and
// its programs have used.
func Meter(own func() float64) func() float64 {
	before := own()
	work, all := CPUTimes()
	return func() float64 {
		mine := own() - before
		work2, all2 := CPUTimes()
		if all2 <= all {
			return 0
		}
		return 100 * max(float64(work2-work)-mine*TicksPerSecond, 0) / float64(all2-all)
	}
}
