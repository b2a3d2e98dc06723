// The table of figures: its rows and their output.

package measure

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Figure is a quantity that was measured once or several times.
type Figure struct {
	ID   string `json:"id"`
	What string `json:"what"`
	Unit string `json:"unit"`
	// N is the number of values. With one value, all quantiles are equal.
	N   int     `json:"n"`
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`

	// Target is the maximum or minimum for Value, which is one of the quantiles.
	Target float64 `json:"target,omitempty"`
	Floor  bool    `json:"atLeast,omitempty"`
	Value  float64 `json:"value,omitempty"`
	// Met is nil without a target.
	Met  *bool  `json:"met,omitempty"`
	Note string `json:"note,omitempty"`
	// Before is the figure of v1.8.17 for the same work, as text.
	Before string `json:"before,omitempty"`
	// Other is the share of all CPUs that other programs used meanwhile, in percent.
	Other float64 `json:"otherWork"`

	values  []float64
	metered bool
}

// Report is the result of a run.
type Report struct {
	Machine Machine `json:"machine"`
	// Seconds is the duration of the run, without what is only built the first time.
	Seconds float64   `json:"seconds"`
	Figures []*Figure `json:"figures"`
}

// NewReport returns an empty report.
func NewReport() *Report { return &Report{} }

// Add adds a figure; values must not be empty.
func (r *Report) Add(id, what, unit string, values []float64) *Figure {
	f := &Figure{
		ID: id, What: what, Unit: unit, N: len(values), values: values,
		Min: Quantile(values, 0), P50: Middle(values), P90: Quantile(values, 0.9), P99: P99(values), Max: Worst(values),
	}
	r.Figures = append(r.Figures, f)
	return f
}

// AtMost sets a maximum for one of the quantiles.
func (f *Figure) AtMost(target float64, which func([]float64) float64) *Figure {
	f.Target, f.Value = target, which(f.values)
	met := f.Value <= target
	f.Met = &met
	return f
}

// AtLeast sets a minimum for one of the quantiles.
func (f *Figure) AtLeast(target float64, which func([]float64) float64) {
	f.Target, f.Floor, f.Value = target, true, which(f.values)
	met := f.Value >= target
	f.Met = &met
}

// Was sets the figure of v1.8.17 for the same work.
func (f *Figure) Was(before string) *Figure {
	f.Before = before
	return f
}

// Remark adds a note to the figure.
func (f *Figure) Remark(format string, args ...any) { f.Note = fmt.Sprintf(format, args...) }

// OtherWork records the CPU share of other programs for the figures added since the last call.
func (r *Report) OtherWork(percent float64) {
	for _, f := range r.Figures {
		if !f.metered {
			f.Other, f.metered = percent, true
		}
	}
}

// Missed returns the figures that miss their targets.
func (r *Report) Missed() []*Figure {
	return slices.DeleteFunc(slices.Clone(r.Figures), func(f *Figure) bool { return f.Met == nil || *f.Met })
}

// Quantile returns the smallest value that this share of all does not exceed.
func Quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := int(math.Ceil(part*float64(len(sorted)))) - 1
	return sorted[min(max(at, 0), len(sorted)-1)]
}

// Middle returns the median.
func Middle(values []float64) float64 { return Quantile(values, 0.5) }

// P99 returns the value that 99 of 100 do not exceed.
func P99(values []float64) float64 { return Quantile(values, 0.99) }

// Worst returns the maximum.
func Worst(values []float64) float64 { return Quantile(values, 1) }

// Print writes the report as text, json or markdown.
func (r *Report) Print(out io.Writer, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "markdown":
		return r.printMarkdown(out)
	default:
		return r.printText(out)
	}
}

func (r *Report) printText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush reports errors
	line("\n%s\n", r.Machine)
	before, header := r.before(), ""
	if before {
		header = "\tV1.8.17"
	}
	line("FIGURE\tP50\tP90\tP99\tMAX\tTARGET\t\tOTHER WORK" + header)
	for _, f := range r.Figures {
		columns := f.columns()
		target, verdict := f.target()
		if before {
			header = "\t" + f.Before
		}
		line("%s\t%s\t%s\t%s\t%.0f %%%s", f.What, strings.Join(columns, "\t"), target, verdict, f.Other, header)
	}
	line("")
	for _, f := range r.Figures {
		if f.Note != "" {
			line("%s: %s", f.What, f.Note)
		}
	}
	line("OTHER WORK: how much of all CPUs other programs took while it was measured")
	line("\n%d of %d targets met, in %.0f s", r.Targets()-len(r.Missed()), r.Targets(), r.Seconds)
	return w.Flush()
}

// Targets returns the number of figures with a target.
func (r *Report) Targets() int {
	n := 0
	for _, f := range r.Figures {
		if f.Met != nil {
			n++
		}
	}
	return n
}

// before reports whether any figure has one of v1.8.17.
func (r *Report) before() bool {
	return slices.ContainsFunc(r.Figures, func(f *Figure) bool { return f.Before != "" })
}

func (r *Report) printMarkdown(out io.Writer) error {
	var b strings.Builder
	before, column := r.before(), ""
	if before {
		b.WriteString("| | p50 | p90 | p99 | max | target | other work | v1.8.17 |\n|---|---|---|---|---|---|---|---|\n")
	} else {
		b.WriteString("| | p50 | p90 | p99 | max | target | other work |\n|---|---|---|---|---|---|---|\n")
	}
	for _, f := range r.Figures {
		target, verdict := f.target()
		if before {
			column = " " + f.Before + " |"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f %% |%s\n", f.What, strings.Join(f.columns(), " | "), strings.TrimSpace(target+" "+verdict), f.Other, column)
	}
	fmt.Fprintf(&b, "\n%s\n", r.Machine)
	_, err := io.WriteString(out, b.String())
	return err
}

// columns returns p50, p90, p99 and max; a single value is in the first column.
func (f *Figure) columns() []string {
	if f.N == 1 {
		return []string{f.show(f.P50), "", "", ""}
	}
	c := []string{f.show(f.P50), f.show(f.P90), f.show(f.P99), f.show(f.Max)}
	if f.N < 50 {
		c[2] = "" // the same as the maximum
	}
	return c
}

func (f *Figure) target() (target, verdict string) {
	if f.Met == nil {
		return "", ""
	}
	relation, which := "≤ ", ""
	if f.Floor {
		relation = "≥ "
	}
	switch {
	case f.N == 1:
	case f.Floor:
		which = "p50 "
	case f.N >= 50 && f.Value == f.P99 && f.Value != f.Max:
		which = "p99 "
	case f.Value == f.P50 && f.Value != f.Max:
		which = "p50 "
	default:
		which = "max "
	}
	verdict = "MISSED"
	if *f.Met {
		verdict = "ok"
	}
	return which + relation + f.show(f.Target), verdict
}

// show formats a value with its unit for people.
func (f *Figure) show(v float64) string {
	switch {
	case f.Unit == "s":
		return showSeconds(v)
	case f.Unit == "/s":
		return fmt.Sprintf("%.0f/s", v)
	case f.Unit == "MiB":
		return fmt.Sprintf("%.1f MiB", v)
	case f.Unit != "":
		return fmt.Sprintf("%.2f %s", v, f.Unit)
	case v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func showSeconds(v float64) string {
	switch {
	case v < 0.001:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case v < 0.01:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case v < 1:
		return fmt.Sprintf("%.0f ms", v*1e3)
	default:
		return fmt.Sprintf("%.2f s", v)
	}
}
