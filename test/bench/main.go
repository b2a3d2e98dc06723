// Command bench measures the speed of the product: on its own sandbox, with the emulated Azure, the
// product's own programs installed from its chart, and real pods. docs/benchmarks.md describes each
// figure.
//
// It always removes its sandbox, even if it is interrupted. A figure that misses its target is only
// a failure with --strict. A figure that could not be measured always is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// deadline bounds a run, which takes about five minutes.
const deadline = 15 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the user's choices.
type options struct {
	output  string
	strict  bool
	keep    bool
	name    string
	bin     string
	profile string
	set     []string
	only    map[string]bool
	cold    int
	burst   int
	warm    int
	busy    int
	pods    int
	idle    time.Duration
}

func parse(args []string, w io.Writer) (options, error) {
	o := options{only: map[string]bool{}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(w)
	flags.StringVar(&o.output, "o", "text", "how to print the figures: text, json or markdown")
	flags.BoolVar(&o.strict, "strict", false, "fail when a figure misses its target")
	flags.BoolVar(&o.keep, "keep", false, "leave the sandbox up, to look around in it")
	flags.StringVar(&o.name, "name", "bench", "`name` of the sandbox")
	flags.StringVar(&o.bin, "bin", "bin", "`folder` with the programs mic, nmi and podid")
	flags.StringVar(&o.profile, "profile", "", "`folder` for profiles of NMI under load and of MIC; they cost some speed")
	flags.Func("set", "one more `value` for the chart, as helm --set takes it; may be repeated", func(value string) error {
		o.set = append(o.set, value)
		return nil
	})
	flags.Func("only", "measure only this `part`, may be repeated: "+partNames(), func(part string) error {
		if !isPart(part) {
			return fmt.Errorf("use one of %s", partNames())
		}
		o.only[part] = true
		return nil
	})
	flags.IntVar(&o.cold, "cold", 12, "pods whose identity is not on the scale set yet, one after the other")
	flags.IntVar(&o.burst, "burst", 20, "pods with as many identities, all at once")
	flags.IntVar(&o.warm, "warm", 100, "pods whose identity is there")
	flags.IntVar(&o.busy, "at-once", 4, "how many of those start at the same time")
	flags.IntVar(&o.pods, "pods", 2000, "pods that MIC has to look after")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long to watch MIC do nothing")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for name, n := range map[string]int{"cold": o.cold, "burst": o.burst, "warm": o.warm, "at-once": o.busy, "pods": o.pods} {
		if n < 1 || n > 5000 {
			return o, fmt.Errorf("-%s=%d: use a number from 1 to 5000", name, n)
		}
	}
	if o.cold+o.burst+namespaces > 150 {
		return o, fmt.Errorf("-cold and -burst: together at most %d", 150-namespaces)
	}
	if o.output != "text" && o.output != "json" && o.output != "markdown" {
		return o, fmt.Errorf("-o %s: use text, json or markdown", o.output)
	}
	bin, err := filepath.Abs(o.bin)
	o.bin = bin
	return o, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errors.New("the benchmarks took longer than "+deadline.String()))
	defer cancel()
	r, err := measureParts(ctx, o, progress.New(stderr))
	if r != nil {
		err = errors.Join(err, r.Print(stdout, o.output))
	}
	if err == nil && o.strict && len(r.Missed()) > 0 {
		err = fmt.Errorf("%d figure(s) missed the target, and --strict was given", len(r.Missed()))
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	return exitDone
}
