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
	_ "golang.org/x/crypto/x509roots/fallback" // the image holds nothing but this program, so no certificates either
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
	code := mic(ctx, process{os.Args[1:], os.Getenv, os.Stdout, os.Stderr, setLoggers})
	stop()
	os.Exit(code)
}

// setLoggers points the libraries' own loggers, one each for the whole process,
// at ours.
func setLoggers(log logr.Logger) {
	klog.SetLogger(log)
	ctrl.SetLogger(log)
}

// process is what a program touches of its surroundings.
type process struct {
	args           []string
	getenv         func(string) string
	stdout, stderr io.Writer
	setLoggers     func(logr.Logger)
}

// mic is main with everything it touches handed in. It returns the exit code.
func mic(ctx context.Context, p process) int {
	options, err := parse(p.args, p.getenv, p.stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		_, _ = fmt.Fprintf(p.stderr, "mic: %v\nRun 'mic --help' for the flags.\n", err)
		return exitUsage
	case options.version:
		_, _ = fmt.Fprintln(p.stdout, "mic "+observe.Build().String())
		return exitDone
	}

	log := observe.NewLogger(p.stderr, options.log.format, options.log.verbosity)
	p.setLoggers(log)
	ctx = logr.NewContext(ctx, log)
	log.Info("starting", "version", observe.Version(), "forceNamespaced", options.identities.forceNamespaced)
	for _, name := range options.meaningless {
		log.Info("this flag is accepted for compatibility and has no meaning any more", "flag", name)
	}
	if err := run(ctx, options, p.getenv); err != nil {
		log.Error(err, "mic ends")
		return exitFailed
	}
	log.Info("stopped")
	return exitDone
}
