// Deadlines that cost nothing while they are kept.

package httpserve

import (
	"os"
	"sync"
	"time"
)

// deadline is one of a connection's two. net/http sets several for each request, most of which are
// replaced before anything waits for them, and the runtime's timers are dear. So the connection's
// own deadline is changed only when a read or a write would else wait for too long. If it is too
// early, that begins again.
type deadline struct {
	mu sync.Mutex
	// want is the deadline that was asked for, inner the one that the connection has; zero is none.
	want, inner time.Time
	waiting     bool // something may wait until inner
}

// ask records what the deadline is to be. set sets the connection's own.
func (d *deadline) ask(t time.Time, set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = t
	if !d.waiting || t.IsZero() || !d.inner.IsZero() && !d.inner.After(t) {
		return nil
	}
	d.inner = t
	return set(t)
}

// begin prepares a read or a write. It returns os.ErrDeadlineExceeded if it is too late for one.
func (d *deadline) begin(now time.Time, set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed(now) {
		return os.ErrDeadlineExceeded
	}
	d.waiting = true
	if d.inner.IsZero() && d.want.IsZero() {
		return nil
	}
	if d.inner.After(now) && (d.want.IsZero() || !d.inner.After(d.want)) {
		return nil // early at worst
	}
	d.inner = d.want
	return set(d.want)
}

// end reports whether a read or a write that ended at the connection's deadline is to begin again.
func (d *deadline) end(late bool) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = false
	return late && !d.passed(time.Now())
}

func (d *deadline) passed(now time.Time) bool { return !d.want.IsZero() && !d.want.After(now) }
