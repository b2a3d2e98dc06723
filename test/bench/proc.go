// What the kernel says of the product's processes.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ticksPerSecond is the unit of times in /proc, the same on every Linux.
const ticksPerSecond = 100

// process finds a program of the product by its component label: its pod's UID is in the name of its control group.
func (b *bench) process(ctx context.Context, component string) (int, error) {
	pods, err := b.client.CoreV1().Pods("podid").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", component, err)
	}
	for i := range pods.Items {
		if pid, err := processOf(string(pods.Items[i].UID), component); err == nil {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("find %s: no process of its %d pod(s)", component, len(pods.Items))
}

// processOf finds the process with that name in a pod.
func processOf(uid, name string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte(uid)) {
			continue // ended meanwhile, or another's
		}
		comm, err := os.ReadFile(filepath.Join(filepath.Dir(file), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, errors.New("no such process")
}

// memory is a process's, in MiB.
type memory struct {
	at time.Time
	// rss is all of it that is in memory, anonymous the part that is not the program's file, peak the most it ever was.
	rss, anonymous, peak float64
	used                 usage
}

func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	m := memory{at: time.Now()}
	for name, into := range map[string]*float64{"VmRSS:": &m.rss, "RssAnon:": &m.anonymous, "VmHWM:": &m.peak} {
		kib, err := statusField(string(text), name)
		if err != nil {
			return memory{}, err
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

// usage is CPU time, in seconds, in steps of 10 ms: all of it, and the part in the kernel.
type usage struct{ all, kernel float64 }

// cpuOf is what a process has used.
func cpuOf(pid int) (float64, error) {
	u, err := usageOf(pid)
	return u.all, err
}

func usageOf(pid int) (usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(text))
}

// parseUsage reads fields 14 and 15. The second field, the name, may hold anything but ends with the last parenthesis.
func parseUsage(text string) (usage, error) {
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 13 {
		return usage{}, fmt.Errorf("/proc/…/stat has %d fields behind the name", len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return usage{float64(user+system) / ticksPerSecond, float64(system) / ticksPerSecond}, errors.Join(err1, err2)
}

// sample reads a process's memory and CPU time every 100 ms until the context ends or the process does.
func sample(ctx context.Context, pid int) func() []memory {
	ctx, stop := context.WithCancel(ctx)
	var all []memory
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			m, err1 := memoryOf(pid)
			used, err2 := usageOf(pid)
			if err1 != nil || err2 != nil {
				return
			}
			m.used = used
			all = append(all, m)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() []memory {
		stop()
		done.Wait()
		return all
	}
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
