// Package rows is what the benchmarks have in common around their measurements: flags, the table of
// rows, and the report.
package rows

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

// UsageError is the error of wrong arguments.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Options are the user's choices that all benchmarks have.
type Options struct {
	Output  string
	Strict  bool
	Bin     string
	Profile string
	// Only are the selected rows, none for the usual ones.
	Only map[string]bool
}

// Texts are what the help of the common flags says about one benchmark.
type Texts struct{ Bin, Profile, Only string }

// Flags returns a set with the common flags.
func (o *Options) Flags(name string, w io.Writer, t Texts, rows []Row) *flag.FlagSet {
	o.Only = map[string]bool{}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	list := strings.Join(names, ", ")
	flags := flag.NewFlagSet("bench "+name, flag.ContinueOnError)
	flags.SetOutput(w)
	flags.StringVar(&o.Output, "o", "text", "how to print the figures: text, json or markdown")
	flags.BoolVar(&o.Strict, "strict", false, "fail when a figure misses its target")
	flags.StringVar(&o.Bin, "bin", "bin", t.Bin)
	flags.StringVar(&o.Profile, "profile", "", t.Profile)
	flags.Func("only", t.Only+", may be repeated: "+list, func(name string) error {
		if !slices.Contains(names, name) {
			return fmt.Errorf("use one of %s", list)
		}
		o.Only[name] = true
		return nil
	})
	return flags
}

// Repeated adds a flag that adds its value to the list each time.
func Repeated(flags *flag.FlagSet, list *[]string, name, usage string) {
	flags.Func(name, usage, func(value string) error {
		*list = append(*list, value)
		return nil
	})
}

// Parse parses the arguments. counts are flags whose values must be 1 to most. validate may be nil.
func (o *Options) Parse(flags *flag.FlagSet, args []string, counts map[string]*int, most int, validate func() error) error {
	if err := flags.Parse(args); err != nil {
		return UsageError{err}
	}
	for name, n := range counts {
		if *n < 1 || *n > most {
			return UsageError{fmt.Errorf("-%s=%d: use a number from 1 to %d", name, *n, most)}
		}
	}
	if o.Output != "text" && o.Output != "json" && o.Output != "markdown" {
		return UsageError{fmt.Errorf("-o %s: use text, json or markdown", o.Output)}
	}
	if validate != nil {
		if err := validate(); err != nil {
			return UsageError{err}
		}
	}
	bin, err := filepath.Abs(o.Bin)
	o.Bin = bin
	return err
}

// Row is one of the measurements. The others are still tried if one fails.
type Row struct {
	Name, What string
	Measure    func(context.Context, *progress.Step) error
}

// Bench is one run.
type Bench struct {
	Progress *progress.Reporter
	Report   *measure.Report
	// Said is the progress message of the current row.
	Said string
}

// New returns a run whose progress goes to w.
func New(w io.Writer) Bench {
	return Bench{Progress: progress.New(w), Report: measure.NewReport()}
}

// Limit bounds the time of a run.
func Limit(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, errors.New("the benchmarks took longer than "+limit.String()))
}

// Run calls measureAll and prints the report.
func (b *Bench) Run(ctx context.Context, o Options, stdout io.Writer, measureAll func(context.Context) error) error {
	began := time.Now()
	b.Report.Machine = measure.Describe()
	err := measureAll(ctx)
	b.Report.Seconds = time.Since(began).Seconds()
	err = errors.Join(err, b.Report.Print(stdout, o.Output))
	if err == nil && o.Strict && len(b.Report.Missed()) > 0 {
		err = fmt.Errorf("%d figure(s) missed the target, and -strict was given", len(b.Report.Missed()))
	}
	return err
}

// Ready prepares nothing, for Measure.
func Ready(Row, *progress.Step) error { return nil }

// Measure measures the rows that are wanted. prepare is called before each, and its work does not
// count for what the machine did meanwhile. own returns the CPU seconds that the benchmark and its
// programs have used.
func (b *Bench) Measure(
	ctx context.Context, rows []Row, wanted func(Row) bool, prepare func(Row, *progress.Step) error, own func() float64,
) (failed error) {
	for _, r := range rows {
		if !wanted(r) {
			continue
		}
		step := b.Progress.Start(r.What)
		err := prepare(r, step)
		meter := measure.Meter(own)
		if err == nil {
			err = r.Measure(ctx, step)
		}
		if err != nil {
			step.Fail()
			failed = errors.Join(failed, fmt.Errorf("measure %s: %w", r.What, err))
			if ctx.Err() != nil {
				return failed
			}
			continue
		}
		b.Report.OtherWork(meter())
		step.Done(b.Said)
	}
	return failed
}
