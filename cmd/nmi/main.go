// Command nmi is the node agent. It answers the requests of its node's pods to the Azure instance
// metadata service, with tokens of the identities that bindings grant them. docs/nmi.md describes
// it.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/go-logr/logr"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no CA certificates
	"k8s.io/klog/v2"

	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/hook/probe"
)

func main() {
	if code, is := probe.Main(); is {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	useOneCPU(os.Getenv)
	code := nmi(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// useOneCPU runs Go code on one CPU at a time, unless GOMAXPROCS is set. One CPU serves more tokens
// than a node's pods request, and bounds what a flood of requests takes from the node. A token
// costs a third less than with two CPUs: net/http starts a goroutine for each request, to notice
// when the client disconnects, and idle CPUs would wake up for it (docs/benchmarks.md).
func useOneCPU(getenv func(string) string) {
	if getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// nmi runs the program and returns its exit code.
func nmi(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	p := daemon.Process{Args: args, Getenv: getenv, Stdout: stdout, Stderr: stderr, SetLoggers: klog.SetLogger}
	o := &options{}
	o.record.out = stdout
	err := o.parse(args, getenv, stdout)
	return p.Main(ctx, daemon.Daemon{
		Name: "nmi", Options: &o.Options, Error: err,
		Starting: []any{"node", o.node.name, "mode", o.identities.mode, "forceNamespaced", o.ForceNamespaced},
		Run: func(ctx context.Context) error {
			log := logr.FromContextOrDiscard(ctx)
			switch {
			case o.bootGuard:
				return guardBoot(ctx, o, log)
			case o.cleanup.on:
				return cleanUp(ctx, o, log)
			case o.cleanup.nodes:
				return cleanUpNodes(ctx, o, log)
			default:
				return run(ctx, o, log)
			}
		},
	})
}
