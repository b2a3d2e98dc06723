// Command mic measures MIC: the real program with its default flags, at a real API server with
// nodes and pods that only exist there, and with the emulated Azure. docs/benchmarks.md describes
// each figure.
//
// Everything runs in a network namespace of its own with only a loopback device. A figure that
// misses its target is only a failure with --strict. A figure that could not be measured always is.
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
	"github.com/podid-io/podid/test/bench/measure"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// A run takes about five minutes, or a quarter of an hour with 20,000 pods.
const (
	deadline     = 15 * time.Minute
	hugeDeadline = 45 * time.Minute
)

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
	bin     string
	profile string
	micArgs []string
	only    map[string]bool
	huge    bool
	pods    int
	sizes   []int
	events  int
	repeat  int
	idle    time.Duration
	logs    string
}

func parse(args []string, w io.Writer) (options, error) {
	o := options{only: map[string]bool{}}
	flags := flag.NewFlagSet("bench mic", flag.ContinueOnError)
	flags.SetOutput(w)
	flags.StringVar(&o.output, "o", "text", "how to print the figures: text, json or markdown")
	flags.BoolVar(&o.strict, "strict", false, "fail when a figure misses its target")
	flags.StringVar(&o.bin, "bin", "bin", "`folder` with the programs mic and podid")
	flags.StringVar(&o.profile, "profile", "", "`folder` for CPU and heap profiles of MIC; they cost some speed")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the logs of MIC and of the emulated Azure, and the API server's audit log")
	flags.Func("mic-flag", "one more `flag` for MIC, for example -mic-flag=--clientQps=50; may be repeated", func(value string) error {
		o.micArgs = append(o.micArgs, value)
		return nil
	})
	flags.Func("only", "measure only this `row`, may be repeated: "+rowNames(), func(name string) error {
		if !isRow(name) {
			return fmt.Errorf("use one of %s", rowNames())
		}
		o.only[name] = true
		return nil
	})
	flags.BoolVar(&o.huge, "huge", false, "measure the row huge, too: up to 20,000 pods, some ten minutes more")
	flags.Func("sizes", "numbers of pods for the rows huge (default 2000,5000,10000,20000) and floor (default as -pods), ascending, separated by commas", func(value string) (err error) {
		o.sizes, err = parseSizes(value)
		return err
	})
	flags.IntVar(&o.pods, "pods", 2000, "pods of the rows start, idle and floor")
	flags.IntVar(&o.events, "events", 200, "single pods, one after the other, of the row huge")
	flags.IntVar(&o.repeat, "repeat", 3, "how often the leader is killed, and how often it is told to end")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long to watch MIC do nothing")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for name, n := range map[string]int{"pods": o.pods, "events": o.events, "repeat": o.repeat} {
		if n < 1 || n > 20000 {
			return o, fmt.Errorf("-%s=%d: use a number from 1 to 20000", name, n)
		}
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
	if err := isolate(); err != nil {
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	limit := deadline
	if o.wants("huge") {
		limit = hugeDeadline
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("the benchmarks took longer than "+limit.String()))
	defer cancel()
	b := &bench{options: o, progress: progress.New(stderr), report: measure.NewReport()}
	err = errors.Join(b.all(ctx), b.report.Print(stdout, o.output))
	if err == nil && o.strict && len(b.report.Missed()) > 0 {
		err = fmt.Errorf("%d figure(s) missed the target, and --strict was given", len(b.report.Missed()))
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	return exitDone
}
