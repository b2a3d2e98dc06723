// The parts, in the order of measurement.

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

// part is one of the measurements. The others are still tried if one fails.
type part struct {
	name, what string
	measure    func(*bench, context.Context, *progress.Step) error
}

// parts returns the parts in the order of their dependencies: cold assigns the identities that warm
// and load use.
func parts() []part {
	return []part{
		{"idle", "NMI with nothing to do", (*bench).nmiIdle},
		{"cold", "first tokens of identities that are not on the scale set yet", (*bench).cold},
		{"burst", "many pods with many identities at once", (*bench).burst},
		{"warm", "first tokens of identities that are there", (*bench).warm},
		{"load", "tokens from the cache, as many as possible", (*bench).load},
		{"scale", "MIC with many pods", (*bench).scale},
	}
}

func partNames() string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

func isPart(name string) bool {
	for _, p := range parts() {
		if p.name == name {
			return true
		}
	}
	return false
}

// wants reports whether to measure a part. Warm and load depend on the identities of cold.
func (o options) wants(part string) bool {
	return len(o.only) == 0 || o.only[part] || part == "cold" && (o.only["warm"] || o.only["load"])
}

// measureParts performs a whole run. The report is nil if there is nothing to report.
func measureParts(ctx context.Context, o options, progress *progress.Reporter) (r *measure.Report, err error) {
	b, err := prepare(ctx, o, progress)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	b.report.Machine = measure.Describe()
	if !o.keep {
		defer func() { //nolint:contextcheck // also after ctx has ended
			err = errors.Join(err, b.down())
			b.report.Seconds = time.Since(began).Seconds()
		}()
	}
	if err := b.up(ctx); err != nil {
		return nil, err
	}
	follow, stop := context.WithCancel(ctx)
	defer stop()
	if err := b.begin(follow); err != nil {
		return nil, err
	}
	var failed error
	for _, p := range parts() {
		if !o.wants(p.name) {
			continue
		}
		step := b.progress.Start(p.what)
		meter := b.meter(ctx)
		if err := p.measure(b, ctx, step); err != nil {
			step.Fail()
			failed = errors.Join(failed, fmt.Errorf("measure %s: %w", p.what, err))
			if ctx.Err() != nil {
				return nil, failed
			}
			continue
		}
		b.report.OtherWork(meter())
		step.Done(b.said)
	}
	return b.report, failed
}
