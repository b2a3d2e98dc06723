package testenv

import (
	"testing"
	"time"
)

// atMost is how long Eventually waits. It is far above what any step of a test takes, so that no
// test fails on a slow machine.
const atMost = 30 * time.Second

// Eventually waits until a condition holds. The condition returns "" when it does, and otherwise
// what is missing, which is the reason in the test's failure. It is checked at once, then soon, and
// then less and less often, up to every 100 ms.
func Eventually(t testing.TB, what string, condition func() string) {
	t.Helper()
	pause := 5 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	limit := time.NewTimer(atMost)
	defer limit.Stop()
	for {
		missing := condition()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
			pause = min(2*pause, 100*time.Millisecond)
			tick.Reset(pause)
		case <-limit.C:
			t.Fatalf("%s: not within %v: %s", what, atMost, missing)
		case <-t.Context().Done():
			t.Fatalf("%s: the test ended: %s", what, missing)
		}
	}
}

// Succeeds waits until a function returns no error.
func Succeeds(t testing.TB, what string, do func() error) {
	t.Helper()
	Eventually(t, what, func() string {
		if err := do(); err != nil {
			return err.Error()
		}
		return ""
	})
}
