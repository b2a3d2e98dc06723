// Command nmi measures NMI: the real program at a real API server, with an emulated metadata
// service, and requests of pods through the real redirect. docs/benchmarks.md describes each
// figure.
//
// Everything runs in network namespaces without external connections. A figure that misses its
// target is only a failure with -strict. A figure that could not be measured always is.
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
	"github.com/podid-io/podid/test/bench/stage"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// deadline is far more than all rows take, which is about eight minutes.
const deadline = 40 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the user's choices.
type options struct {
	output   string
	strict   bool
	bin      string
	profile  string
	logs     string
	nmiFlags []string
	only     map[string]bool

	rounds  int
	round   time.Duration
	outage  time.Duration
	many    time.Duration
	moments int
	rolls   int
	pods    int
	objects int
}

func parse(args []string, w io.Writer) (options, error) {
	o := options{only: map[string]bool{}}
	flags := flag.NewFlagSet("bench nmi", flag.ContinueOnError)
	flags.SetOutput(w)
	flags.StringVar(&o.output, "o", "text", "how to print the figures: text, json or markdown")
	flags.BoolVar(&o.strict, "strict", false, "fail when a figure misses its target")
	flags.StringVar(&o.bin, "bin", "bin", "`folder` with the programs nmi and podid")
	flags.StringVar(&o.profile, "profile", "", "`folder` for CPU and heap profiles of NMI; they cost some speed")
	flags.StringVar(&o.logs, "logs", "", "`folder` for the logs of NMI and of the emulated Azure")
	flags.Func("nmi-flag", "one more `flag` for NMI, for example -nmi-flag=--audit-log=all; may be repeated", func(value string) error {
		o.nmiFlags = append(o.nmiFlags, value)
		return nil
	})
	flags.Func("only", "measure only this `row`, may be repeated: "+rowNames(), func(name string) error {
		if !isRow(name) {
			return fmt.Errorf("use one of %s", rowNames())
		}
		o.only[name] = true
		return nil
	})
	flags.IntVar(&o.rounds, "rounds", 4, "how often NMI and the bare server take turns in the rows cache, single and fresh")
	flags.DurationVar(&o.round, "round", 3*time.Second, "how long such a turn is")
	flags.IntVar(&o.moments, "moments", 100, "pods of the row moment")
	flags.DurationVar(&o.outage, "outage", time.Minute, "how long the metadata service fails in the row outage, for all kinds of failure together")
	flags.DurationVar(&o.many, "many", time.Minute, "how long the row many is")
	flags.IntVar(&o.rolls, "rolls", 4, "how often NMI is replaced in the row roll")
	flags.IntVar(&o.pods, "pods", 20000, "pods of the cluster in the row idle")
	flags.IntVar(&o.objects, "identities", 5000, "identities, and as many bindings, of the cluster in the row idle")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if err := o.validate(); err != nil {
		return o, err
	}
	bin, err := filepath.Abs(o.bin)
	o.bin = bin
	return o, err
}

func (o options) validate() error {
	for name, n := range map[string]int{"rounds": o.rounds, "moments": o.moments, "rolls": o.rolls, "pods": o.pods, "identities": o.objects} {
		if n < 1 || n > 20000 {
			return fmt.Errorf("-%s=%d: use a number from 1 to 20000", name, n)
		}
	}
	for name, d := range map[string]time.Duration{"round": o.round, "outage": o.outage, "many": o.many} {
		if d < time.Second || d > 10*time.Minute {
			return fmt.Errorf("-%s=%s: use a time from 1s to 10m", name, d)
		}
	}
	if o.moments > maxMoments {
		return fmt.Errorf("-moments=%d: use at most %d", o.moments, maxMoments)
	}
	if o.output != "text" && o.output != "json" && o.output != "markdown" {
		return fmt.Errorf("-o %s: use text, json or markdown", o.output)
	}
	return nil
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if part := os.Getenv(role); part != "" {
		return play(ctx, part, stdin, stdout, stderr)
	}
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitUsage
	}
	if err := stage.Isolate(); err != nil {
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errors.New("the benchmarks took longer than "+deadline.String()))
	defer cancel()
	b := &bench{options: o, progress: progress.New(stderr), report: measure.NewReport()}
	err = errors.Join(b.all(ctx), b.report.Print(stdout, o.output))
	if err == nil && o.strict && len(b.report.Missed()) > 0 {
		err = fmt.Errorf("%d figure(s) missed the target, and -strict was given", len(b.report.Missed()))
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	return exitDone
}
