// Reading logs.

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// LogNames lists the components that have logs.
func (s *Sandbox) LogNames() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(s.layout.Logs(), "*.log"))
	if err != nil {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	if len(files) == 0 {
		return nil, ErrNotUp
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".log"))
	}
	slices.Sort(names)
	return names, nil
}

// Log writes the last lines of a component's log, or all of it if lines is negative. With follow,
// it then copies new output until the context ends.
func (s *Sandbox) Log(ctx context.Context, name string, lines int, follow bool, out io.Writer) error {
	names, err := s.LogNames()
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		return fmt.Errorf("there is no log of %q; there are: %s", name, strings.Join(names, ", "))
	}
	f, err := os.Open(filepath.Join(s.layout.Logs(), name+".log"))
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer func() { _ = f.Close() }()
	all, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	if _, err := io.WriteString(out, lastLines(string(all), lines)); err != nil {
		return err
	}
	if !follow {
		return nil
	}
	return followFile(ctx, f, out)
}

// followFile copies what is appended to an open file, waiting by inotify.
func followFile(ctx context.Context, f *os.File, out io.Writer) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer func() { _ = events.Close() }()
	// Removing an open file changes an attribute, its number of links.
	if _, err := unix.InotifyAddWatch(fd, f.Name(), unix.IN_MODIFY|unix.IN_ATTRIB); err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = events.Close() }) // ends the read below
	defer stop()
	buffer := make([]byte, 4096)
	for {
		if _, err := io.Copy(out, f); err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
		if _, err := os.Stat(f.Name()); err != nil {
			return nil // the sandbox was taken down
		}
		if _, err := events.Read(buffer); err != nil {
			if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("follow log: %w", err)
		}
	}
}

// lastLines returns that many lines from the end of a text, or all of it if lines is negative.
func lastLines(text string, lines int) string {
	if lines < 0 {
		return text
	}
	all := strings.SplitAfter(text, "\n")
	if len(all) > 0 && all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// tail returns the last lines of a file, or the error if it cannot be read.
func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return strings.TrimRight(lastLines(string(b), lines), "\n")
}
