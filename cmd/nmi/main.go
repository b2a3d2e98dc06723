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
	"runtime"
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
	useOneCPU(os.Getenv)
	code := nmi(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// useOneCPU runs Go code on one CPU at a time, unless $GOMAXPROCS says otherwise. It is enough for more tokens a second
// than a node's pods can ask for, it is the most that a flood of requests can take from the node, and a token costs a
// third less than with two: net/http starts a goroutine for every request, to notice a client that leaves, which idle
// CPUs would wake up for (docs/benchmarks.md).
func useOneCPU(getenv func(string) string) {
	if getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
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
