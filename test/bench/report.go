// The figures, and how they are printed.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is something measured, once or many times.
type figure struct {
	ID   string `json:"id"`
	What string `json:"what"`
	Unit string `json:"unit"`
	// N is how many values there are; with one, all of these are the same.
	N   int     `json:"n"`
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`

	// Target is what Value, one of the above, should be at most or at least.
	Target  float64 `json:"target,omitempty"`
	AtLeast bool    `json:"atLeast,omitempty"`
	Value   float64 `json:"value,omitempty"`
	// Met is nil without a target.
	Met  *bool  `json:"met,omitempty"`
	Note string `json:"note,omitempty"`
	// Other is how much of all CPUs other programs took meanwhile, in percent.
	Other float64 `json:"otherWork"`

	values  []float64
	metered bool
}

// report is what a run found.
type report struct {
	Machine machine `json:"machine"`
	// Seconds is how long it took, without what is only built the first time.
	Seconds float64   `json:"seconds"`
	Figures []*figure `json:"figures"`
}

func newReport() *report { return &report{} }

// add adds a figure; values must not be empty.
func (r *report) add(id, what, unit string, values []float64) *figure {
	f := &figure{
		ID: id, What: what, Unit: unit, N: len(values), values: values,
		Min: quantile(values, 0), P50: middle(values), P90: quantile(values, 0.9), P99: p99(values), Max: worst(values),
	}
	r.Figures = append(r.Figures, f)
	return f
}

// atMost sets the target for one of the quantiles.
func (f *figure) atMost(target float64, which func([]float64) float64) *figure {
	f.Target, f.Value = target, which(f.values)
	met := f.Value <= target
	f.Met = &met
	return f
}

// atLeast sets the target for one of the quantiles.
func (f *figure) atLeast(target float64, which func([]float64) float64) {
	f.Target, f.AtLeast, f.Value = target, true, which(f.values)
	met := f.Value >= target
	f.Met = &met
}

func (f *figure) note(format string, args ...any) { f.Note = fmt.Sprintf(format, args...) }

// other notes for the figures added since the last call what else the machine had to do.
func (r *report) other(percent float64) {
	for _, f := range r.Figures {
		if !f.metered {
			f.Other, f.metered = percent, true
		}
	}
}

// missed are the figures that miss their targets.
func (r *report) missed() []*figure {
	return slices.DeleteFunc(slices.Clone(r.Figures), func(f *figure) bool { return f.Met == nil || *f.Met })
}

// quantile is the smallest value that this part of all do not exceed.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := int(math.Ceil(part*float64(len(sorted)))) - 1
	return sorted[min(max(at, 0), len(sorted)-1)]
}

func middle(values []float64) float64 { return quantile(values, 0.5) }
func p99(values []float64) float64    { return quantile(values, 0.99) }
func worst(values []float64) float64  { return quantile(values, 1) }

func (r *report) print(out io.Writer, format string) error {
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

func (r *report) printText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush tells of errors
	line("\n%s\n", r.Machine)
	line("FIGURE\tP50\tP90\tP99\tMAX\tTARGET\t\tOTHER WORK")
	for _, f := range r.Figures {
		columns := f.columns()
		target, verdict := f.target()
		line("%s\t%s\t%s\t%s\t%.0f %%", f.What, strings.Join(columns, "\t"), target, verdict, f.Other)
	}
	line("")
	for _, f := range r.Figures {
		if f.Note != "" {
			line("%s: %s", f.What, f.Note)
		}
	}
	line("OTHER WORK: how much of all CPUs other programs took while it was measured")
	line("\n%d of %d targets met, in %.0f s", r.targets()-len(r.missed()), r.targets(), r.Seconds)
	return w.Flush()
}

func (r *report) targets() int {
	n := 0
	for _, f := range r.Figures {
		if f.Met != nil {
			n++
		}
	}
	return n
}

func (r *report) printMarkdown(out io.Writer) error {
	var b strings.Builder
	b.WriteString("| | p50 | p90 | p99 | max | target |\n|---|---|---|---|---|---|\n")
	for _, f := range r.Figures {
		target, verdict := f.target()
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.What, strings.Join(f.columns(), " | "), strings.TrimSpace(target+" "+verdict))
	}
	fmt.Fprintf(&b, "\n%s\n", r.Machine)
	_, err := io.WriteString(out, b.String())
	return err
}

// columns are p50, p90, p99 and max; a single value stands in the first.
func (f *figure) columns() []string {
	if f.N == 1 {
		return []string{f.show(f.P50), "", "", ""}
	}
	c := []string{f.show(f.P50), f.show(f.P90), f.show(f.P99), f.show(f.Max)}
	if f.N < 50 {
		c[2] = "" // the same as the maximum
	}
	return c
}

func (f *figure) target() (target, verdict string) {
	if f.Met == nil {
		return "", ""
	}
	relation, which := "≤ ", ""
	if f.AtLeast {
		relation = "≥ "
	}
	switch {
	case f.N == 1:
	case f.AtLeast:
		which = "p50 "
	case f.N >= 50 && f.Value == f.P99 && f.Value != f.Max:
		which = "p99 "
	default:
		which = "max "
	}
	verdict = "MISSED"
	if *f.Met {
		verdict = "ok"
	}
	return which + relation + f.show(f.Target), verdict
}

// show writes a value with its unit as a person reads it.
func (f *figure) show(v float64) string {
	switch {
	case f.Unit == "s" && v < 0.001:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case f.Unit == "s" && v < 0.01:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case f.Unit == "s" && v < 1:
		return fmt.Sprintf("%.0f ms", v*1e3)
	case f.Unit == "s":
		return fmt.Sprintf("%.2f s", v)
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
