// What identifies a process.

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ID identifies one process.
type ID struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks since boot.
	Start uint64 `json:"start"`
	// Boot is the machine's boot ID: no recorded process survives a reboot.
	Boot string `json:"boot"`
}

// Identify returns the identity of the process that has the ID now.
func Identify(pid int) (ID, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ID{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	start, _, err := parseStat(stat)
	if err != nil {
		return ID{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	boot, err := bootID()
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: start, Boot: boot}, nil
}

// Alive reports whether that process still runs. A zombie does not.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id.PID))
	if err != nil {
		return false
	}
	start, state, err := parseStat(stat)
	if err != nil || start != id.Start || state == 'Z' || state == 'X' {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == id.Boot
}

// Signal sends a signal through a pidfd, so that the ID cannot be reused in between. An ended
// process is no error.
func (id ID) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", id.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !id.Alive() { // after the open, so that the pidfd is of the checked process
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", id.PID, err)
	}
	return nil
}

// Wait blocks until the process has ended or the time is over, and reports whether it has ended.
func (id ID) Wait(limit time.Duration) bool {
	over := make(chan struct{})
	timer := time.AfterFunc(limit, func() { close(over) })
	defer timer.Stop()
	return id.wait(over)
}

// WaitEnd blocks until the process or the context has ended, and reports whether the process has.
func (id ID) WaitEnd(ctx context.Context) bool { return id.wait(ctx.Done()) }

// wait blocks until the process has ended or the channel is closed. It polls a pidfd for the first
// and a pipe for the second.
func (id ID) wait(over <-chan struct{}) bool {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return !id.Alive()
	}
	defer func() { _ = unix.Close(fd) }()
	r, w, err := os.Pipe()
	if err != nil {
		return !id.Alive()
	}
	defer func() { _ = r.Close() }()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-over:
		case <-ended:
		}
		_ = w.Close()
	}()
	for id.Alive() {
		select {
		case <-over:
			return false
		default:
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}} //nolint:gosec // file descriptors are small
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return !id.Alive()
		}
	}
	return true
}

// parseStat returns the start time and the state. The command's name, in parentheses, may contain
// any character.
func parseStat(stat []byte) (start uint64, state byte, err error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, errors.New("no command in its stat file")
	}
	fields := bytes.Fields(stat[end+1:])
	const stateField, startField = 0, 19 // counted from behind the name: fields 3 and 22 of proc(5)
	if len(fields) <= startField || len(fields[stateField]) != 1 {
		return 0, 0, errors.New("too few fields in its stat file")
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time in its stat file: %w", err)
	}
	return start, fields[stateField][0], nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the machine's boot id: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}
