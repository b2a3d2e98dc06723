// The load of other programs while the sandbox was measured.

package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/test/bench/measure"
)

// ownCPU returns the CPU time of the sandbox and this process in seconds.
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
		if seconds, err := measure.CPUOf(c.PID); err == nil {
			used += seconds
		}
	}
	return used
}

// groupCPU returns the CPU time of a control group in seconds. dirs are its folders in the
// hierarchies, one of which counts CPU time.
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
