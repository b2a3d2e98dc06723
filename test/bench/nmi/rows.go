// The table of the rows, in the order of measurement.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

// bench is one run.
type bench struct {
	options  options
	progress *progress.Reporter
	report   *measure.Report
	// node is shared by all rows except idle.
	node *node
	// said is the progress message of the current row.
	said string
}

// row is one of the measurements, each with its own NMI. The others are still tried if one fails.
type row struct {
	name, what string
	measure    func(*bench, context.Context, *progress.Step) error
}

func rows() []row {
	return []row{
		{"cache", "tokens from the cache, 32 connections", (*bench).cache},
		{"single", "tokens from the cache, one connection", (*bench).single},
		{"fresh", "tokens from the cache, a new connection for each", (*bench).fresh},
		{"moment", "a pod asks the moment it runs", (*bench).moment},
		{"outage", "the metadata service fails", (*bench).outage},
		{"many", "250 pods, 1,000 requests a second", (*bench).many},
		{"roll", "NMI is replaced under load", (*bench).roll},
		{"idle", "NMI idle in a big cluster", (*bench).idle},
	}
}

func rowNames() string {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return strings.Join(names, ", ")
}

func isRow(name string) bool {
	return slices.ContainsFunc(rows(), func(r row) bool { return r.name == name })
}

// wants reports whether to measure a row.
func (o options) wants(name string) bool { return len(o.only) == 0 || o.only[name] }

// all measures the selected rows.
func (b *bench) all(ctx context.Context) (failed error) {
	began := time.Now()
	b.report.Machine = measure.Describe()
	defer func() {
		if b.node != nil {
			failed = errors.Join(failed, b.node.stage.Remove())
		}
		b.report.Seconds = time.Since(began).Seconds()
	}()
	for _, r := range rows() {
		if !b.options.wants(r.name) {
			continue
		}
		step := b.progress.Start(r.what)
		if err := b.one(ctx, r, step); err != nil {
			step.Fail()
			failed = errors.Join(failed, fmt.Errorf("measure %s: %w", r.what, err))
			if ctx.Err() != nil {
				return failed
			}
			continue
		}
		step.Done(b.said)
	}
	return failed
}

func (b *bench) one(ctx context.Context, r row, step *progress.Step) error {
	if b.node == nil && r.name != "idle" {
		step.Far("preparing an API server, a node and its pods")
		n, err := b.newNode(ctx)
		if err != nil {
			return err
		}
		b.node = n
	}
	meter := measure.Meter(stage.OwnCPU)
	if err := r.measure(b, ctx, step); err != nil {
		return err
	}
	b.report.OtherWork(meter())
	return nil
}
