// The parts, in the order of measurement.

package pods

import (
	"context"
	"errors"

	"github.com/podid-io/podid/test/bench/rows"
)

// parts returns the parts in the order of their dependencies: cold assigns the identities that warm
// and load use.
func (b *bench) parts() []rows.Row {
	return []rows.Row{
		{Name: "idle", What: "NMI with nothing to do", Measure: b.nmiIdle},
		{Name: "cold", What: "first tokens of identities that are not on the scale set yet", Measure: b.cold},
		{Name: "burst", What: "many pods with many identities at once", Measure: b.burst},
		{Name: "warm", What: "first tokens of identities that are there", Measure: b.warm},
		{Name: "load", What: "tokens from the cache, as many as possible", Measure: b.load},
		{Name: "scale", What: "MIC with many pods", Measure: b.scale},
	}
}

// wants reports whether to measure a part. Warm and load depend on the identities of cold.
func (o options) wants(part string) bool {
	return len(o.Only) == 0 || o.Only[part] || part == "cold" && (o.Only["warm"] || o.Only["load"])
}

// all performs a whole run.
func (b *bench) all(ctx context.Context) (err error) {
	if !b.options.keep {
		defer func() { //nolint:contextcheck // also after ctx has ended
			err = errors.Join(err, b.down())
		}()
	}
	if err := b.up(ctx); err != nil {
		return err
	}
	follow, stop := context.WithCancel(ctx)
	defer stop()
	if err := b.begin(follow); err != nil {
		return err
	}
	wanted := func(r rows.Row) bool { return b.options.wants(r.Name) }
	return b.Measure(ctx, b.parts(), wanted, rows.Ready, func() float64 { return b.ownCPU(ctx) })
}
