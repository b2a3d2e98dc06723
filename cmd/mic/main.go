// Command mic is the Managed Identity Controller: it keeps AzureAssignedIdentity
// objects, and the identities of VMs and scale sets on Azure, in step with pods.
// docs/mic.md tells what it does; mic --help its flags.
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
	ctrl "sigs.k8s.io/controller-runtime"

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
	code := mic(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// mic is main with everything it touches handed in. It returns the exit code.
func mic(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	options, err := parse(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "mic: %v\nRun 'mic --help' for the flags.\n", err)
		return exitUsage
	case options.version:
		fmt.Fprintln(stdout, "mic "+observe.Build().String())
		return exitDone
	}

	log := observe.NewLogger(stderr, options.log.format, options.log.verbosity)
	klog.SetLogger(log)
	ctrl.SetLogger(log)
	ctx = logr.NewContext(ctx, log)
	log.Info("starting", "version", observe.Version(), "forceNamespaced", options.identities.forceNamespaced)
	for _, name := range options.meaningless {
		log.Info("this flag is accepted for compatibility and has no meaning any more", "flag", name)
	}
	if err := run(ctx, options, getenv); err != nil {
		log.Error(err, "mic ends")
		return exitFailed
	}
	log.Info("stopped")
	return exitDone
}
