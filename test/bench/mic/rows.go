// The table of the rows, in the order of measurement.

package mic

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/podid-io/podid/test/bench/rows"
	"github.com/podid-io/podid/test/bench/stage"
)

// bench is one run.
type bench struct {
	rows.Bench
	options options
}

// rows returns the measurements, each with its own cluster.
func (b *bench) rows() []rows.Row {
	return []rows.Row{
		{Name: "burst", What: "40 pods with 40 identities at once", Measure: b.burst},
		{Name: "steady", What: "a new pod with a new identity each second", Measure: b.steady},
		{Name: "start", What: "MIC starts with pods that wait for it", Measure: b.start},
		{Name: "idle", What: "MIC with nothing to do", Measure: b.start},
		{Name: "floor", What: "the API server alone, without MIC", Measure: b.floor},
		{Name: "failover", What: "the leader ends", Measure: b.failover},
		{Name: "bad", What: "one bad identity among five", Measure: b.bad},
		{Name: "fleet", What: "1,000 single VMs at Azure's limits", Measure: b.fleet},
		{Name: "huge", What: "up to 20,000 pods", Measure: b.hugeRow},
	}
}

// wants reports whether to measure a row.
func (o options) wants(name string) bool {
	if len(o.Only) == 0 {
		return name != "huge" || o.huge
	}
	return o.Only[name] || name == "huge" && o.huge
}

// all measures the selected rows. Idle reuses the cluster of start if both are selected.
func (b *bench) all(ctx context.Context) error {
	wanted := func(r rows.Row) bool {
		return b.options.wants(r.Name) && (r.Name != "idle" || !b.options.wants("start"))
	}
	return b.Measure(ctx, b.rows(), wanted, rows.Ready, stage.OwnCPU)
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
