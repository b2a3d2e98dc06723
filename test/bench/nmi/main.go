// Package nmi measures NMI: the real program at a real API server, with an emulated metadata
// service, and requests of pods through the real redirect.
package nmi

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/podid-io/podid/test/bench/rows"
	"github.com/podid-io/podid/test/bench/stage"
)

// deadline is far more than all rows take, which is about eight minutes.
const deadline = 40 * time.Minute

// options are the user's choices.
type options struct {
	rows.Options
	logs     string
	nmiFlags []string

	rounds  int
	round   time.Duration
	outage  time.Duration
	many    time.Duration
	moments int
	churn   time.Duration
	rolls   int
	pods    int
	objects int
}

func parse(args []string, w io.Writer) (options, error) {
	var o options
	flags := o.Flags("nmi", w, rows.Texts{
		Bin: "`folder` with the programs nmi and podid", Profile: "`folder` for CPU and heap profiles of NMI; they cost some speed",
		Only: "measure only this `row`",
	}, new(bench).rows())
	flags.StringVar(&o.logs, "logs", "", "`folder` for the logs of NMI and of the emulated Azure")
	rows.Repeated(flags, &o.nmiFlags, "nmi-flag", "one more `flag` for NMI, for example -nmi-flag=--audit-log=all; may be repeated")
	flags.IntVar(&o.rounds, "rounds", 4, "how often NMI and the bare server take turns in the rows cache, single and fresh")
	flags.DurationVar(&o.round, "round", 3*time.Second, "how long such a turn is")
	flags.IntVar(&o.moments, "moments", 100, "pods of the row moment")
	flags.DurationVar(&o.outage, "outage", time.Minute, "how long the metadata service fails in the row outage, for all kinds of failure together")
	flags.DurationVar(&o.many, "many", time.Minute, "how long the row many is")
	flags.DurationVar(&o.churn, "churn", time.Minute, "how long the row churn is")
	flags.IntVar(&o.rolls, "rolls", 4, "how often NMI is replaced in the row roll")
	flags.IntVar(&o.pods, "pods", 20000, "pods of the cluster in the row idle")
	flags.IntVar(&o.objects, "identities", 5000, "identities, and as many bindings, of the cluster in the row idle")
	counts := map[string]*int{"rounds": &o.rounds, "moments": &o.moments, "rolls": &o.rolls, "pods": &o.pods, "identities": &o.objects}
	return o, o.Parse(flags, args, counts, 20000, o.validate)
}

func (o *options) validate() error {
	for name, d := range map[string]time.Duration{"round": o.round, "outage": o.outage, "many": o.many, "churn": o.churn} {
		if d < time.Second || d > 10*time.Minute {
			return fmt.Errorf("-%s=%s: use a time from 1s to 10m", name, d)
		}
	}
	if o.moments > maxMoments {
		return fmt.Errorf("-moments=%d: use at most %d", o.moments, maxMoments)
	}
	return nil
}

// Run measures what the arguments select, in network namespaces of its own, and prints the report.
// In a process that a run has started it plays that process's part.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if part := os.Getenv(role); part != "" {
		return play(ctx, part, stdin, stdout)
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := stage.Isolate(); err != nil {
		return err
	}
	ctx, cancel := rows.Limit(ctx, deadline)
	defer cancel()
	b := &bench{Bench: rows.New(stderr), options: o}
	return b.Run(ctx, o.Options, stdout, b.all)
}
