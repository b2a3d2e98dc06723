// Package daemon holds what podid's daemons share: common flags, deprecated flags of v1.8.17, the
// client configuration, servers for probes and metrics, and exit codes.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/logging"
)

// The exit codes.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Process is a program's environment.
type Process struct {
	Args           []string
	Getenv         func(string) string
	Stdout, Stderr io.Writer
	// SetLoggers sets the libraries' global loggers.
	SetLoggers func(logr.Logger)
}

// Daemon is a program with a parsed command line.
type Daemon struct {
	Name    string
	Options *Options
	Error   error // of parsing
	// Starting are additional key and value pairs of the first log line.
	Starting []any
	// Run serves until ctx ends. The end of ctx is not an error.
	Run func(ctx context.Context) error
}

// Main runs a daemon and returns the exit code.
func (p Process) Main(ctx context.Context, d Daemon) int {
	switch {
	case errors.Is(d.Error, flag.ErrHelp):
		return ExitDone
	case d.Error != nil:
		_, _ = fmt.Fprintf(p.Stderr, "%s: %v\nRun '%s --help' for the flags.\n", d.Name, d.Error, d.Name)
		return ExitUsage
	case d.Options.Version:
		_, _ = fmt.Fprintln(p.Stdout, d.Name+" "+build.Describe().String())
		return ExitDone
	}
	log := logging.New(p.Stderr, d.Options.LogFormat, d.Options.Verbosity)
	p.SetLoggers(log)
	log.Info("starting", append([]any{"version", build.Version()}, d.Starting...)...)
	if d.Options.Verbosity > logging.MaxVerbosity {
		log.Info("log verbosity limited: higher levels would show the bodies of API requests, Secrets and tokens among them",
			"requested", d.Options.Verbosity, "used", logging.MaxVerbosity)
	}
	for _, name := range d.Options.Deprecated {
		log.Info("ignored deprecated flag", "flag", name)
	}
	if err := d.Run(logr.NewContext(ctx, log)); err != nil {
		log.Error(err, d.Name+" ends")
		return ExitFailed
	}
	log.Info("stopped")
	return ExitDone
}
