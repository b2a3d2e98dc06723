// Package program is what every daemon of podid is around its own work: the options
// that all have, flags of v1.8.17 without a meaning, a way to the API server, servers
// for probes and metrics, and the way from the command line to an exit code.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/observe"
)

// The exit codes.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Process is what a program touches of its surroundings.
type Process struct {
	Args           []string
	Getenv         func(string) string
	Stdout, Stderr io.Writer
	// SetLoggers points the libraries' own loggers, one each for the whole process,
	// at ours.
	SetLoggers func(logr.Logger)
}

// Daemon is a program whose command line was parsed, with this error or none.
type Daemon struct {
	Name    string
	Options *Options
	Error   error
	// Starting are key and value pairs for the first line of the log.
	Starting []any
	// Run serves until the context ends, which is no error.
	Run func(ctx context.Context) error
}

// Main runs a daemon, or says why not, and returns the exit code.
func (p Process) Main(ctx context.Context, d Daemon) int {
	switch {
	case errors.Is(d.Error, flag.ErrHelp):
		return ExitDone
	case d.Error != nil:
		_, _ = fmt.Fprintf(p.Stderr, "%s: %v\nRun '%s --help' for the flags.\n", d.Name, d.Error, d.Name)
		return ExitUsage
	case d.Options.Version:
		_, _ = fmt.Fprintln(p.Stdout, d.Name+" "+observe.Build().String())
		return ExitDone
	}
	log := observe.NewLogger(p.Stderr, d.Options.LogFormat, d.Options.Verbosity)
	p.SetLoggers(log)
	log.Info("starting", append([]any{"version", observe.Version()}, d.Starting...)...)
	if d.Options.Verbosity > observe.MaxVerbosity {
		log.Info("log verbosity limited: higher levels would show the bodies of API requests, Secrets and tokens among them",
			"requested", d.Options.Verbosity, "used", observe.MaxVerbosity)
	}
	for _, name := range d.Options.Meaningless {
		log.Info("this flag is accepted for compatibility and has no meaning any more", "flag", name)
	}
	if err := d.Run(logr.NewContext(ctx, log)); err != nil {
		log.Error(err, d.Name+" ends")
		return ExitFailed
	}
	log.Info("stopped")
	return ExitDone
}
