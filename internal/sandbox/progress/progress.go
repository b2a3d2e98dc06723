// Package progress shows a person what is being done, how far it is and how long it has taken.
//
// Each finished step is one line. A step that takes longer than two seconds has a line of its own
// while it runs, which is rewritten in place on a terminal and repeated every ten seconds
// elsewhere. There are no colors and no tables.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// When a running step is first shown, and how often it is shown again.
const (
	quiet     = 2 * time.Second
	onScreen  = 500 * time.Millisecond
	inLogFile = 10 * time.Second
)

// Reporter writes the progress of consecutive steps.
type Reporter struct {
	out      io.Writer
	terminal bool
}

// New returns a reporter. It rewrites lines only if the writer is a terminal.
func New(out io.Writer) *Reporter {
	return &Reporter{out: out, terminal: isTerminal(out)}
}

// Step is one piece of work. It is safe for concurrent use.
type Step struct {
	reporter *Reporter
	what     string
	began    time.Time
	stop     chan struct{}
	done     sync.WaitGroup

	mu  sync.Mutex
	far string
}

// Start begins a step. The caller ends it with Done or Fail.
func (r *Reporter) Start(what string) *Step {
	s := &Step{reporter: r, what: what, began: time.Now(), stop: make(chan struct{})}
	s.done.Add(1)
	go s.show()
	return s
}

// Say writes a line between steps.
func (r *Reporter) Say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

// Far sets how far the step is, for example "1 of 2 nodes ready".
func (s *Step) Far(format string, args ...any) {
	s.mu.Lock()
	s.far = fmt.Sprintf(format, args...)
	s.mu.Unlock()
}

// Done ends the step and writes its line, with the result if there is one.
func (s *Step) Done(result string) {
	s.end()
	s.line("ok  ", result)
}

// Fail ends a step that failed. The caller reports the error.
func (s *Step) Fail() {
	s.end()
	s.line("FAIL", "")
}

func (s *Step) end() {
	close(s.stop)
	s.done.Wait()
	if s.reporter.terminal {
		_, _ = io.WriteString(s.reporter.out, "\r\x1b[K")
	}
}

func (s *Step) line(mark, result string) {
	if result != "" {
		result = ": " + result
	}
	_, _ = fmt.Fprintf(s.reporter.out, "%s  %s%s (%s)\n", mark, s.what, result, Seconds(time.Since(s.began)))
}

func (s *Step) show() {
	defer s.done.Done()
	every := inLogFile
	if s.reporter.terminal {
		every = onScreen
	}
	select {
	case <-time.After(quiet):
	case <-s.stop:
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s.running()
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
	}
}

func (s *Step) running() {
	s.mu.Lock()
	far := s.far
	s.mu.Unlock()
	parts := []string{s.what}
	if far != "" {
		parts = append(parts, far)
	}
	parts = append(parts, Seconds(time.Since(s.began)))
	line := "..    " + strings.Join(parts, ", ")
	if s.reporter.terminal {
		_, _ = io.WriteString(s.reporter.out, "\r\x1b[K"+line)
		return
	}
	_, _ = io.WriteString(s.reporter.out, line+"\n")
}

// Seconds formats a duration for a person: 0.4 s, 12 s, 3 min 05 s.
func Seconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	default:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
