// Command nmi is the node agent: it answers what the pods of its node ask of the
// Azure instance metadata service, with tokens of the identities they were given.
// docs/nmi.md tells what it does; nmi --help its flags.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/go-logr/logr"
	_ "golang.org/x/crypto/x509roots/fallback" // the image holds nothing but this program, so no certificates of Entra ID's either
	"k8s.io/klog/v2"

	"github.com/podid-io/podid/internal/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	useOneCPU(os.Getenv)
	code := nmi(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// useOneCPU runs Go code on one CPU at a time, unless $GOMAXPROCS says otherwise. It is enough for
// more tokens a second than a node's pods can ask for, it is the most that a flood of requests can
// take from the node, and a token costs a third less than with two: net/http starts a goroutine for
// every request, to notice a client that leaves, which idle CPUs would wake up for
// (docs/benchmarks.md).
func useOneCPU(getenv func(string) string) {
	if getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// nmi is main with everything it touches handed in. It returns the exit code.
func nmi(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	p := program.Process{Args: args, Getenv: getenv, Stdout: stdout, Stderr: stderr, SetLoggers: klog.SetLogger}
	o := &options{}
	o.record.out = stdout
	err := o.parse(args, getenv, stdout)
	return p.Main(ctx, program.Daemon{
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
