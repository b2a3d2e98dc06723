package attachment

import (
	"testing"
	"time"
)

// TestWaitingSince: a need waits from when it came until an update begins that includes it, also if
// it came during another update.
func TestWaitingSince(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(1000+int64(second), 0) }
	var d demand
	want := func(since time.Time) {
		t.Helper()
		if !d.waitingSince.Equal(since) {
			t.Errorf("waits since %v, want %v", d.waitingSince, since)
		}
	}
	want(time.Time{})
	d.ask(at(0))
	d.ask(at(1))
	want(at(0))
	d.burstDelay(at(2))
	want(at(0)) // its turn at Azure has not come yet
	d.planned = at(3)
	d.included()
	want(time.Time{})

	d.ask(at(4))
	d.planned = at(5)
	d.ask(at(6)) // between plan and update
	d.included()
	want(at(6))
	d.failed()
	want(at(4)) // its pods have waited all the time
}
