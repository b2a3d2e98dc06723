// The table of the rows, in the order of measurement.

package nmi

import (
	"context"
	"errors"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/rows"
	"github.com/podid-io/podid/test/bench/stage"
)

// bench is one run.
type bench struct {
	rows.Bench
	options options
	// node is shared by all rows except idle.
	node *node
}

// rows returns the measurements, each with its own NMI.
func (b *bench) rows() []rows.Row {
	return []rows.Row{
		{Name: "cache", What: "tokens from the cache, 32 connections", Measure: b.cache},
		{Name: "single", What: "tokens from the cache, one connection", Measure: b.single},
		{Name: "fresh", What: "tokens from the cache, a new connection for each", Measure: b.fresh},
		{Name: "moment", What: "a pod asks the moment it runs", Measure: b.moment},
		{Name: "outage", What: "the metadata service fails", Measure: b.outage},
		{Name: "many", What: "250 pods, 1,000 requests a second", Measure: b.many},
		{Name: "roll", What: "NMI is replaced under load", Measure: b.roll},
		{Name: "inside", What: "tokens from the cache, inside a pod", Measure: b.inside},
		{Name: "crowd", What: "250 pods with networks of their own", Measure: b.crowd},
		{Name: "churn", What: "250 pods with networks of their own come and go", Measure: b.churn},
		{Name: "idle", What: "NMI idle in a big cluster", Measure: b.idle},
	}
}

// wants reports whether to measure a row.
func (o options) wants(r rows.Row) bool { return len(o.Only) == 0 || o.Only[r.Name] }

// all measures the selected rows.
func (b *bench) all(ctx context.Context) (failed error) {
	defer func() {
		if b.node != nil {
			failed = errors.Join(failed, b.node.stage.Remove())
		}
	}()
	return b.Measure(ctx, b.rows(), b.options.wants, func(r rows.Row, step *progress.Step) (err error) {
		if b.node == nil && r.Name != "idle" {
			step.Far("preparing an API server, a node and its pods")
			b.node, err = b.newNode(ctx)
		}
		return err
	}, stage.OwnCPU)
}
