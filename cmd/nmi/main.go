// Command nmi is the node agent: it answers what the pods of its node ask of the
// Azure instance metadata service, with tokens of the identities they were given.
// docs/nmi.md tells what it does; nmi --help its flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/podid-io/podid/internal/observe"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := nmi(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// nmi is main with everything it touches handed in. It returns the exit code.
func nmi(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	options, err := parse(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "nmi: %v\nRun 'nmi --help' for the flags.\n", err)
		return exitUsage
	case options.version:
		_, _ = fmt.Fprintln(stdout, "nmi "+observe.Build().String())
		return exitDone
	}

	log := observe.NewLogger(stderr, options.log.format, options.log.verbosity)
	klog.SetLogger(log)
	ctx = logr.NewContext(ctx, log)
	log.Info("starting", "version", observe.Version(), "node", options.node.name,
		"mode", options.identities.mode, "forceNamespaced", options.identities.forceNamespaced)
	for _, name := range options.meaningless {
		log.Info("this flag is accepted for compatibility and has no meaning any more", "flag", name)
	}
	if err := run(ctx, options, log); err != nil {
		log.Error(err, "nmi ends")
		return exitFailed
	}
	log.Info("stopped")
	return exitDone
}
