// Reading and printing results.

package main

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/podid-io/podid/test/kernels/vm"
)

// result is what came of the tests on a kernel.
type result struct {
	kernel  kernel
	missing error // why the kernel could not be had
	trouble error // why the tests did not run to their end
	release string
	took    time.Duration
	partial bool

	passed, failed, skipped []outcome
}

// outcome is one test's.
type outcome struct {
	program, test string
	output        []string
}

// The tests that show what --capture=prefer does.
const (
	testInPods   = "TestCaptureInPods"
	testFallback = "TestCaptureOldKernel"
)

// capture returns what --capture=prefer did.
func (r *result) capture() string {
	passed := func(name string) bool {
		return slices.ContainsFunc(r.passed, func(o outcome) bool { return o.test == name })
	}
	switch {
	case passed(testInPods):
		return "inside pods"
	case passed(testFallback):
		return "on the wire, with the reason in the log"
	}
	return "not seen"
}

// bad reports whether the kernel is to blame for something. A kernel that could not be had is not.
func (r *result) bad() bool {
	if r.missing != nil {
		return false
	}
	inPods := r.capture() == "inside pods"
	return r.trouble != nil || len(r.failed) > 0 || !r.partial && (inPods != r.kernel.inPods || r.capture() == "not seen")
}

// read reads what init printed.
func read(text string) (r result) {
	ended := regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+)`) // not the parts of a test, which are indented
	now, whole := outcome{}, false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if mark, value, own := vm.Parse(line); own {
			r.handle(mark, value, &now)
			whole = whole || mark == vm.End
			continue
		}
		if strings.HasPrefix(line, "=== RUN") && !strings.Contains(line, "/") {
			now.output = nil
			continue
		}
		now.output = append(now.output, line)
		if m := ended.FindStringSubmatch(line); m != nil {
			now.test = m[2]
			r.add(m[1], now)
			now = outcome{program: now.program}
		}
	}
	if !whole && r.trouble == nil {
		r.trouble = errors.New("the machine ended before the tests")
	}
	return r
}

// handle handles a line of init's own. now is the test that is running.
func (r *result) handle(mark vm.Mark, value string, now *outcome) {
	switch mark {
	case vm.Kernel:
		r.release = value
	case vm.Program:
		*now = outcome{program: value}
	case vm.Exit:
		r.exit(*now, value)
	case vm.Trouble:
		r.trouble = errors.Join(r.trouble, errors.New(value))
	}
}

// exit records that a program ended badly. One with failed tests does that, too.
func (r *result) exit(now outcome, how string) {
	if slices.ContainsFunc(r.failed, func(o outcome) bool { return o.program == now.program }) {
		return
	}
	now.test = "(" + how + ")"
	r.failed = append(r.failed, now)
}

func (r *result) add(how string, o outcome) {
	switch how {
	case "PASS":
		o.output = nil
		r.passed = append(r.passed, o)
	case "FAIL":
		r.failed = append(r.failed, o)
	default:
		r.skipped = append(r.skipped, o)
	}
}

// details returns what the tests printed that did not pass.
func (r *result) details() string {
	var b strings.Builder
	for _, o := range r.failed {
		fmt.Fprintf(&b, "FAIL  %s: %s %s\n      %s\n", r.kernel.name, o.program, o.test, strings.Join(o.output, "\n      "))
	}
	skipped := map[string][]string{}
	for _, o := range r.skipped {
		skipped[o.why()] = append(skipped[o.why()], o.test)
	}
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Fprintf(&b, "skip  %s: %s: %s\n", r.kernel.name, why, strings.Join(skipped[why], ", "))
	}
	if r.trouble != nil {
		fmt.Fprintf(&b, "FAIL  %s: %v\n", r.kernel.name, r.trouble)
	}
	return b.String()
}

// why returns the reason for which a test was skipped, without the place in the code.
func (o outcome) why() string {
	place := regexp.MustCompile(`^\s+\S+\.go:\d+: `)
	for _, line := range o.output {
		if at := place.FindString(line); at != "" {
			return line[len(at):]
		}
	}
	return "no reason"
}

// table returns the results as a table.
func table(results []result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "kernel\trelease\tpassed\tfailed\tskipped\ttime\t--capture=prefer captures")
	for _, r := range results {
		if r.missing != nil {
			_, _ = fmt.Fprintf(w, "%s\tcould not be had: %s\n", r.kernel.name, strings.ReplaceAll(r.missing.Error(), "\n", ": "))
			continue
		}
		capture := r.capture()
		if r.trouble != nil {
			capture += ", not run to the end"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%v\t%s\n", r.kernel.name, r.release,
			len(r.passed), len(r.failed), len(r.skipped), r.took.Round(time.Second), capture)
	}
	_ = w.Flush()
	return b.String()
}
