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
	_ "golang.org/x/crypto/x509roots/fallback" // the image holds nothing but this program, so no certificates either
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

// gcPercent is half of Go's default: MIC's memory is that of its caches and half as much, not twice
// them. It costs a tenth of its CPU time, and only while pods come and go.
const gcPercent = 50

// collectSooner has the garbage collector run more often, unless $GOGC says otherwise.
func collectSooner(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// setLoggers points the libraries' own loggers at ours.
func setLoggers(log logr.Logger) {
	klog.SetLogger(log)
	ctrl.SetLogger(log)
}

// mic is main with everything it touches handed in. It returns the exit code.
func mic(ctx context.Context, p daemon.Process) int {
	o := &options{}
	err := o.parse(p.Args, p.Getenv, p.Stdout)
	return p.Main(ctx, daemon.Daemon{
		Name: "mic", Options: &o.Options, Error: err, Starting: []any{"forceNamespaced", o.ForceNamespaced},
		Run: func(ctx context.Context) error { return run(ctx, o, p.Getenv) },
	})
}
