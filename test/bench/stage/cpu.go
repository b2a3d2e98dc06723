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
	for _, seconds := range CPUByName() {
		used += seconds
	}
	return used
}

// CPUByName returns the CPU time of this process's running descendants in seconds, by the name of
// the program.
func CPUByName() map[string]float64 {
	used := map[string]float64{}
	all := processes()
	for pid, p := range all {
		if seconds, err := measure.CPUOf(pid); err == nil && descends(all, pid) {
			used[p.name] += seconds
		}
	}
	return used
}

type process struct {
	name   string
	parent int
}

// processes returns all processes by their ID.
func processes() map[int]process {
	all := map[int]process{}
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
		from, to := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')') // the name may contain any characters
		if err1 != nil || from < 0 || to < from {
			continue
		}
		fields := strings.Fields(string(text[to+1:]))
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			all[pid] = process{string(text[from+1 : to]), parent}
		}
	}
	return all
}

func descends(all map[int]process, pid int) bool {
	for depth := 0; depth < 32 && pid > 1; depth++ {
		if pid = all[pid].parent; pid == os.Getpid() {
			return true
		}
	}
	return false
}
