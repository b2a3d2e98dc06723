// Package pods measures the product on its own sandbox, with the emulated Azure, the programs
// installed from the chart, and real pods.
//
// It always removes its sandbox, even if it is interrupted.
package pods

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/podid-io/podid/internal/privileged"
	"github.com/podid-io/podid/test/bench/rows"
)

// deadline bounds a run, which takes about five minutes.
const deadline = 15 * time.Minute

// options are the user's choices.
type options struct {
	rows.Options
	keep  bool
	name  string
	set   []string
	way   string // of capture
	cold  int
	burst int
	warm  int
	busy  int
	pods  int
	idle  time.Duration
}

func parse(args []string, w io.Writer) (options, error) {
	var o options
	flags := o.Flags("pods", w, rows.Texts{
		Bin: "`folder` with the programs mic, nmi and podid", Profile: "`folder` for profiles of NMI under load and of MIC; they cost some speed",
		Only: "measure only this `part`",
	}, new(bench).parts())
	flags.BoolVar(&o.keep, "keep", false, "leave the sandbox up, to look around in it")
	flags.StringVar(&o.name, "name", "bench", "`name` of the sandbox")
	rows.Repeated(flags, &o.set, "set", "one more `value` for the chart, as helm --set takes it; may be repeated")
	flags.StringVar(&o.way, "capture", privileged.CaptureWire, "`way` in which NMI gets pods' requests, as the chart's nmi.capture")
	flags.IntVar(&o.cold, "cold", 12, "pods whose identity is not on the scale set yet, one after the other")
	flags.IntVar(&o.burst, "burst", 20, "pods with as many identities, all at once")
	flags.IntVar(&o.warm, "warm", 100, "pods whose identity is there")
	flags.IntVar(&o.busy, "at-once", 4, "how many of those start at the same time")
	flags.IntVar(&o.pods, "pods", 2000, "pods that MIC has to look after")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long to watch MIC do nothing")
	counts := map[string]*int{"cold": &o.cold, "burst": &o.burst, "warm": &o.warm, "at-once": &o.busy, "pods": &o.pods}
	return o, o.Parse(flags, args, counts, 5000, func() error {
		if o.cold+o.burst+namespaces > 150 {
			return fmt.Errorf("-cold and -burst: together at most %d", 150-namespaces)
		}
		return nil
	})
}

// Run measures what the arguments select and prints the report.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	ctx, cancel := rows.Limit(ctx, deadline)
	defer cancel()
	b, err := prepare(ctx, o, stderr)
	if err != nil {
		return err
	}
	return b.Run(ctx, o.Options, stdout, b.all)
}
