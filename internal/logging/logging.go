// Package logging is the log of the daemons: the logr API on slog, one line per entry.
package logging

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
)

// The log formats of the flag logging-format.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// CheckFormat returns an error that lists the valid formats when format is none of them.
func CheckFormat(format string) error {
	if format != FormatText && format != FormatJSON {
		return fmt.Errorf("unknown log format %q: use %s or %s", format, FormatText, FormatJSON)
	}
	return nil
}

// MaxVerbosity is the highest verbosity of a logger. From V(8) on, client-go logs the bodies of
// requests and responses, including Secrets and the tokens of service accounts.
const MaxVerbosity = 6

// New returns a logger that writes to w. format is FormatJSON or FormatText; any other value
// counts as text (see CheckFormat). verbosity is klog's, limited to MaxVerbosity: V(n) is
// written when n <= verbosity. Errors are always written.
//
// The caller sets the same logger for klog and controller-runtime, so that a daemon has one log in
// one format.
func New(w io.Writer, format string, verbosity int) logr.Logger {
	// logr passes V(n) to slog as level -n.
	options := &slog.HandlerOptions{Level: slog.Level(-min(max(verbosity, 0), MaxVerbosity)), ReplaceAttr: plainLevel}
	if format == FormatJSON {
		return logr.FromSlogHandler(slog.NewJSONHandler(w, options))
	}
	return logr.FromSlogHandler(slog.NewTextHandler(w, options))
}

// plainLevel writes levels in the usual spelling, for filters: slog would write V(1) as "DEBUG+3".
func plainLevel(groups []string, a slog.Attr) slog.Attr {
	if a.Key != slog.LevelKey || len(groups) > 0 {
		return a
	}
	level, ok := a.Value.Any().(slog.Level)
	switch {
	case !ok:
		return a
	case level >= slog.LevelError:
		return slog.String(slog.LevelKey, "error")
	case level >= slog.LevelWarn:
		return slog.String(slog.LevelKey, "warning")
	case level >= slog.LevelInfo:
		return slog.String(slog.LevelKey, "info")
	default:
		return slog.String(slog.LevelKey, "debug")
	}
}
