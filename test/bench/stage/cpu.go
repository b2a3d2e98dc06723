// The CPU time of the benchmark itself.

package stage

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/test/bench/measure"
)

// OwnCPU returns the CPU time of this process and its descendants in seconds.
func OwnCPU() float64 {
	used := 0.0
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} { // children that have ended
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			used += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	parents := parents()
	for pid := range parents {
		if descends(parents, pid) {
			if seconds, err := measure.CPUOf(pid); err == nil {
				used += seconds
			}
		}
	}
	return used
}

// parents returns the parents of all processes.
func parents() map[int]int {
	all := map[int]int{}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // the name before it may contain any characters
		if err1 != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			all[pid] = parent
		}
	}
	return all
}

func descends(parents map[int]int, pid int) bool {
	for depth := 0; depth < 32 && pid > 1; depth++ {
		if pid = parents[pid]; pid == os.Getpid() {
			return true
		}
	}
	return false
}
