// Command mic is the Managed Identity Controller. It keeps AzureAssignedIdentity objects, and the
// identities of VMs and scale sets on Azure, in step with pods. docs/mic.md describes it; mic
// --help lists its flags.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/go-logr/logr"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no CA certificates
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/podid-io/podid/internal/daemon"
)

func main() {
	collectSooner(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := mic(ctx, daemon.Process{Args: os.Args[1:], Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, SetLoggers: setLoggers})
	stop()
	os.Exit(code)
}

// gcPercent is half of Go's default. Garbage adds half the size of MIC's caches to its memory, not
// their full size. It costs a tenth of its CPU time, and only while pods start and end.
const gcPercent = 50

// collectSooner makes the garbage collector run more often, unless $GOGC is set.
func collectSooner(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// setLoggers sets the libraries' global loggers.
func setLoggers(log logr.Logger) {
	klog.SetLogger(log)
	ctrl.SetLogger(log)
}

// mic runs the program and returns its exit code.
func mic(ctx context.Context, p daemon.Process) int {
	o := &options{}
	err := o.parse(p.Args, p.Getenv, p.Stdout)
	return p.Main(ctx, daemon.Daemon{
		Name: "mic", Options: &o.Options, Error: err, Starting: []any{"forceNamespaced", o.ForceNamespaced},
		Run: func(ctx context.Context) error { return run(ctx, o, p.Getenv) },
	})
}
