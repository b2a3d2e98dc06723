// Command bench measures the speed of the product. docs/benchmarks.md describes each figure.
//
//	bench mic …    MIC at a real API server, with nodes and pods that only exist there
//	bench nmi …    NMI on its own node, with requests through the real redirect
//	bench pods …   real pods in a sandbox: first tokens, NMI under load
//
// All use the product's own programs with their default flags, an emulated Azure, and network
// namespaces without external connections. A figure that misses its target is only a failure with
// -strict. A figure that could not be measured always is.
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

	"github.com/podid-io/podid/test/bench/mic"
	"github.com/podid-io/podid/test/bench/nmi"
	"github.com/podid-io/podid/test/bench/pods"
	"github.com/podid-io/podid/test/bench/rows"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var err error
	switch command := append(args, ""); command[0] {
	case "mic":
		err = mic.Run(ctx, args[1:], stdout, stderr)
	case "nmi":
		err = nmi.Run(ctx, args[1:], stdin, stdout, stderr)
	case "pods":
		err = pods.Run(ctx, args[1:], stdout, stderr)
	default:
		err = rows.UsageError{Err: errors.New("nothing to measure: use bench mic, nmi or pods (-h for help)")}
	}
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	_, _ = fmt.Fprintln(stderr, "bench:", err)
	if _, usage := errors.AsType[rows.UsageError](err); usage {
		return exitUsage
	}
	return exitFailed
}
