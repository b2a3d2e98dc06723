// Package audit writes the audit log: which pod got which token, and which pod was refused, and
// why.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/podid-io/podid/internal/ascii"
)

// Mode selects which decisions are logged.
type Mode string

// The modes.
const (
	Off Mode = "off"
	// Changes logs the first of equal decisions, and the next one ten minutes later. Metrics count
	// all of them.
	Changes Mode = "changes"
	// All logs every decision.
	All Mode = "all"
)

// ParseMode parses a mode of the command line.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(ascii.ToLower(s)); m {
	case Off, Changes, All:
		return m, nil
	default:
		return "", fmt.Errorf("audit log %q: use %s, %s or %s", s, Off, Changes, All)
	}
}

// Log writes one line of JSON for each decision about a token. No line has a token, and client IDs
// are shortened. Requests never wait for the writer: if it is too slow, lines are dropped and
// counted. It is safe for concurrent use.
type Log struct {
	mode   Mode
	lost   func()
	lines  *lines
	recent *recent
}

// New returns a log. lost is called for each line that is dropped.
func New(mode Mode, lost func()) *Log {
	return &Log{mode: mode, lost: lost, lines: newLines(), recent: newRecent()}
}

// Enabled reports whether Record does anything. A nil log is disabled.
func (l *Log) Enabled() bool { return l != nil && l.mode != Off }

// Record logs a decision, unless it is equal to a recent one and the mode is Changes.
func (l *Log) Record(e *Entry) {
	if !l.Enabled() || l.mode != All && !l.recent.add(e.decision(), e.Time) {
		return
	}
	text, err := json.Marshal(e.line())
	if err != nil || !l.lines.add(e.Caller.NamespacedName, append(text, '\n')) {
		l.lost()
	}
}

// Run writes lines to w until ctx ends, and then those that are left.
func (l *Log) Run(ctx context.Context, w io.Writer) {
	for {
		select {
		case <-l.lines.ready:
		case <-ctx.Done():
		}
		for text := l.lines.next(); text != nil; text = l.lines.next() {
			if _, err := w.Write(text); err != nil {
				l.lost()
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}
