// Package model runs MIC's controllers through random histories and checks what they do.
//
// A history is a list of steps. Pods, bindings, identities and nodes are created, changed and
// deleted. MIC restarts in the middle of operations. Azure and the API server fail. Other clients
// interfere. All of it happens in fake time, so that minutes cost milliseconds. The checks
// (azure_test.go at every update, check_test.go at every moment and at rest) know only the objects
// and the rules of package identity.
//
// A history that fails is reduced to the steps that matter, and printed.
package model

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"pgregory.net/rapid"
	ctrl "sigs.k8s.io/controller-runtime"
)

// verdict is the outcome of a history.
type verdict struct {
	what, details string
	story         []string
}

// run runs a history.
func run(t *testing.T, s setup, history []step, log io.Writer) (v verdict) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(s, log)
		w.populate()
		w.start()
		synctest.Wait()
		for _, step := range history {
			if said := w.do(step); said != "" {
				v.story = append(v.story, fmt.Sprintf("%s  %s    %+v", clock(time.Now()), said, step))
				w.log.Info("STEP: " + said)
			}
			synctest.Wait()
			w.checkNow()
			if w.failed() {
				break
			}
		}
		if !w.failed() {
			v.story = append(v.story, clock(time.Now())+"  all faults end; rest")
			w.rest()
		}
		w.mic.stop()
		v.what, v.details = w.verdict, w.details
	})
	return v
}

func (v verdict) String() string {
	return fmt.Sprintf("%s: %s\n  %s", v.what, v.details, strings.Join(v.story, "\n  "))
}

// The number of histories that a test runs, and the fixed seed of TestHistories. With a fixed seed,
// an unrelated change does not run new histories.
const (
	fewHistories = 60
	fixedSeed    = "1"
)

// seedVariable names the environment variable with the seed of TestFreshHistories. CI sets and
// prints it.
const seedVariable = "PODID_TEST_SEED"

// flagsOf sets the flags of package rapid for one test, unless the command line has some.
func flagsOf(t *testing.T, seed string) {
	t.Helper()
	if commandLine() {
		return
	}
	for name, value := range map[string]string{"rapid.checks": strconv.Itoa(fewHistories), "rapid.seed": seed} {
		before := flag.Lookup(name).Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(name, before) })
		ours[name] = true
	}
}

// ours holds the flags that flagsOf has set.
var ours = map[string]bool{}

// commandLine reports whether the command line says which histories to run.
func commandLine() (asked bool) {
	flag.Visit(func(f *flag.Flag) { asked = asked || strings.HasPrefix(f.Name, "rapid.") && !ours[f.Name] })
	return asked
}

func TestHistories(t *testing.T) {
	flagsOf(t, fixedSeed)
	runHistories(t)
}

// TestFreshHistories runs other histories than TestHistories. CI picks a seed for each run.
func TestFreshHistories(t *testing.T) {
	seed := os.Getenv(seedVariable)
	if seed == "" || commandLine() {
		t.Skipf("set %s to a number to run other histories than those of seed %s", seedVariable, fixedSeed)
	}
	t.Logf("%s=%s", seedVariable, seed)
	flagsOf(t, seed)
	runHistories(t)
}

func runHistories(t *testing.T) {
	t.Helper()
	ctrl.SetLogger(logr.Discard())
	// Goroutines make each run of a history a little different. Rapid cannot shrink a failure that
	// does not reproduce, so a history that failed once counts as failed.
	failed := map[string]verdict{}
	rapid.Check(t, func(rt *rapid.T) {
		s, history := setups().Draw(rt, "setup"), histories().Draw(rt, "history")
		id := fmt.Sprintf("%+v %+v", s, history)
		v, known := failed[id]
		if !known {
			v = run(t, s, history, logTo())
		}
		if v.what != "" {
			failed[id] = v
			rt.Logf("%s\n%s", s, v)
			rt.Fatal("MIC is not exact")
		}
	})
}

// logTo returns the writer for MIC's log, or nil unless PODID_TEST_LOG is set.
func logTo() io.Writer {
	if os.Getenv("PODID_TEST_LOG") != "" {
		return os.Stderr
	}
	return nil
}
