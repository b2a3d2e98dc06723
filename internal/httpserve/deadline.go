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
	over        bool // inner has passed, and want has not
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

// begin prepares a read or a write. It returns os.ErrDeadlineExceeded if it is too late for one. It
// looks at the clock only if need be: that costs as much as the rest.
func (d *deadline) begin(set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	inTime := d.inner.Equal(d.want) || !d.inner.IsZero() && (d.want.IsZero() || d.inner.Before(d.want))
	if !inTime && d.passed() {
		return os.ErrDeadlineExceeded
	}
	if d.waiting = true; inTime && !d.over {
		return nil
	}
	d.inner, d.over = d.want, false
	return set(d.want)
}

// end ends a read or a write. It reports whether one that ended at the connection's deadline is to
// begin again.
func (d *deadline) end(late bool) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = false
	d.over = late && !d.inner.Equal(d.want) && !d.passed()
	return d.over
}

// longAgo is a time that has passed by any clock, in Unix seconds. net/http ends a read by an even
// earlier deadline, with each request.
const longAgo = 100_000_000

// passed reports whether it is too late. The caller must hold mu.
func (d *deadline) passed() bool {
	return !d.want.IsZero() && (d.want.Unix() < longAgo || !d.want.After(time.Now()))
}
