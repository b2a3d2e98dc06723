// Package mic measures MIC: the real program with its default flags, at a real API server with
// nodes and pods that only exist there, and with the emulated Azure.
package mic

import (
	"context"
	"io"
	"time"

	"github.com/podid-io/podid/test/bench/rows"
	"github.com/podid-io/podid/test/bench/stage"
)

// A run takes about five minutes, or a quarter of an hour with 20,000 pods.
const (
	deadline     = 15 * time.Minute
	hugeDeadline = 45 * time.Minute
)

// options are the user's choices.
type options struct {
	rows.Options
	micArgs []string
	huge    bool
	pods    int
	sizes   []int
	events  int
	repeat  int
	idle    time.Duration
	logs    string
}

func parse(args []string, w io.Writer) (options, error) {
	var o options
	flags := o.Flags("mic", w, rows.Texts{
		Bin: "`folder` with the programs mic and podid", Profile: "`folder` for CPU and heap profiles of MIC; they cost some speed",
		Only: "measure only this `row`",
	}, new(bench).rows())
	flags.StringVar(&o.logs, "logs", "", "`folder` for the logs of MIC and of the emulated Azure, and the API server's audit log")
	rows.Repeated(flags, &o.micArgs, "mic-flag", "one more `flag` for MIC, for example -mic-flag=--clientQps=50; may be repeated")
	flags.BoolVar(&o.huge, "huge", false, "measure the row huge, too: up to 20,000 pods, some ten minutes more")
	flags.Func("sizes", "numbers of pods for the rows huge (default 2000,5000,10000,20000) and floor (default as -pods), ascending, separated by commas", func(value string) (err error) {
		o.sizes, err = parseSizes(value)
		return err
	})
	flags.IntVar(&o.pods, "pods", 2000, "pods of the rows start, idle and floor")
	flags.IntVar(&o.events, "events", 200, "single pods, one after the other, of the row huge")
	flags.IntVar(&o.repeat, "repeat", 3, "how often the leader is killed, and how often it is told to end")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long to watch MIC do nothing")
	return o, o.Parse(flags, args, map[string]*int{"pods": &o.pods, "events": &o.events, "repeat": &o.repeat}, 20000, nil)
}

// Run measures what the arguments select, in a network namespace of its own, and prints the report.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := stage.Isolate(); err != nil {
		return err
	}
	limit := deadline
	if o.wants("huge") {
		limit = hugeDeadline
	}
	ctx, cancel := rows.Limit(ctx, limit)
	defer cancel()
	b := &bench{Bench: rows.New(stderr), options: o}
	return b.Run(ctx, o.Options, stdout, b.all)
}
