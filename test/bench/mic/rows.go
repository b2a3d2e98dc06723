// The table of the rows, in the order of measurement.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

// bench is one run.
type bench struct {
	options  options
	progress *progress.Reporter
	report   *measure.Report
	// said is the progress message of the current row.
	said string
}

// row is one of the measurements, each with its own cluster. The others are still tried if one
// fails.
type row struct {
	name, what string
	measure    func(*bench, context.Context, *progress.Step) error
}

func rows() []row {
	return []row{
		{"burst", "40 pods with 40 identities at once", (*bench).burst},
		{"steady", "a new pod with a new identity each second", (*bench).steady},
		{"start", "MIC starts with pods that wait for it", (*bench).start},
		{"idle", "MIC with nothing to do", (*bench).start},
		{"floor", "the API server alone, without MIC", (*bench).floor},
		{"failover", "the leader ends", (*bench).failover},
		{"bad", "one bad identity among five", (*bench).bad},
		{"fleet", "1,000 single VMs at Azure's limits", (*bench).fleet},
		{"huge", "up to 20,000 pods", (*bench).hugeRow},
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
func (o options) wants(name string) bool {
	if len(o.only) == 0 {
		return name != "huge" || o.huge
	}
	return o.only[name] || name == "huge" && o.huge
}

// all measures the selected rows. Idle reuses the cluster of start if both are selected.
func (b *bench) all(ctx context.Context) error {
	began := time.Now()
	b.report.Machine = measure.Describe()
	var failed error
	for _, r := range rows() {
		if !b.options.wants(r.name) || r.name == "idle" && b.options.wants("start") {
			continue
		}
		step := b.progress.Start(r.what)
		meter := measure.Meter(ownCPU)
		if err := r.measure(b, ctx, step); err != nil {
			step.Fail()
			failed = errors.Join(failed, fmt.Errorf("measure %s: %w", r.what, err))
			if ctx.Err() != nil {
				return failed
			}
			continue
		}
		b.report.OtherWork(meter())
		step.Done(b.said)
	}
	b.report.Seconds = time.Since(began).Seconds()
	return failed
}

func parseSizes(text string) ([]int, error) {
	var sizes []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > 20000 || len(sizes) > 0 && n <= sizes[len(sizes)-1] {
			return nil, errors.New("use ascending numbers from 1 to 20000, separated by commas")
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}
