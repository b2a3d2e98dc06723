// The kernel's figures about processes.

package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// TicksPerSecond is the unit of times in /proc, the same on every Linux.
const TicksPerSecond = 100

// Memory is a process's memory, in MiB, and its CPU time until then.
type Memory struct {
	At time.Time
	// RSS is all resident memory, Anonymous the part that is not the program's file, Peak the maximum
	// of RSS so far.
	RSS, Anonymous, Peak float64
	Used                 Usage
}

// MemoryOf returns a process's memory, without Used.
func MemoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, err
	}
	m := Memory{At: time.Now()}
	for name, into := range map[string]*float64{"VmRSS:": &m.RSS, "RssAnon:": &m.Anonymous, "VmHWM:": &m.Peak} {
		kib, err := statusField(string(text), name)
		if err != nil {
			return Memory{}, err
		}
		*into = float64(kib) / 1024
	}
	return m, nil
}

func statusField(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name && f[2] == "kB" {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in /proc/…/status", name)
}

// Usage is CPU time in seconds, in steps of 10 ms: the total, and the part in the kernel.
type Usage struct{ All, Kernel float64 }

// CPUOf returns a process's CPU time in seconds, with nanosecond resolution. It derives the clock
// from the process ID as clock_getcpuclockid(3) does.
func CPUOf(pid int) (float64, error) {
	var t unix.Timespec
	const allThreads = 2
	if err := unix.ClockGettime(int32(^pid<<3|allThreads), &t); err != nil { //nolint:gosec // a process ID has 22 bits
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return float64(t.Nano()) / 1e9, nil
}

// UsageOf returns a process's CPU time.
func UsageOf(pid int) (Usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	return parseUsage(string(text))
}

// parseUsage reads fields 14 and 15. The second field, the name, may contain any characters and
// ends at the last parenthesis.
func parseUsage(text string) (Usage, error) {
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 13 {
		return Usage{}, fmt.Errorf("/proc/…/stat has %d fields behind the name", len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return Usage{float64(user+system) / TicksPerSecond, float64(system) / TicksPerSecond}, errors.Join(err1, err2)
}

// DescriptorsOf returns the number of a process's open files.
func DescriptorsOf(pid int) (int, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(open), err
}

// Sample reads a process's memory and CPU time every 100 ms until the context or the process ends.
// The function it returns stops the sampling and returns the samples.
func Sample(ctx context.Context, pid int) func() []Memory {
	ctx, stop := context.WithCancel(ctx)
	var all []Memory
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			m, err1 := MemoryOf(pid)
			used, err2 := UsageOf(pid)
			if err1 != nil || err2 != nil {
				return
			}
			m.Used = used
			all = append(all, m)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() []Memory {
		stop()
		done.Wait()
		return all
	}
}

// Pause waits for d, or until the context ends.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
