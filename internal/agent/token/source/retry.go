// Retries of calls to an authority.

package source

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/reason"
)

// Backoff is how often and how fast a request is retried.
type Backoff struct {
	// Attempts is the number of calls in all.
	Attempts int
	// First is the pause after the first call. It doubles with each further call.
	First time.Duration
	// Jitter shortens each pause by up to a half, so that the nodes of a cluster do not retry in
	// step.
	Jitter bool
}

const (
	// maxRetryAfter is the longest Retry-After that a request waits for. For a longer one it fails,
	// and the client comes back by itself.
	maxRetryAfter = 2 * time.Second
	// MaxCooldown bounds how long one Retry-After is obeyed.
	MaxCooldown = token.MaxRetryAfter
)

// Do calls until there is a token, the failure is not transient, or ctx leaves no time for another
// call. begin runs before each call. Its error ends the retries, and Do returns the failure of the
// call before, if there was one.
func (b Backoff) Do(
	ctx context.Context, begin func(context.Context) (end func(), err error),
	call func(ctx context.Context, first bool) (*token.Token, error),
) (*token.Token, error) {
	var last error
	pause := b.First
	for n := 1; ; n++ {
		end, err := begin(ctx)
		if err != nil {
			return nil, cmp.Or(last, err)
		}
		t, err := call(ctx, n == 1)
		end()
		if err == nil {
			return t, nil
		}
		last = err
		f := reason.AsRefusal(err)
		if f == nil || !f.Transient() || n == b.Attempts || f.RetryAfter > maxRetryAfter {
			return nil, err
		}
		if !sleep(ctx, max(b.jitter(pause), f.RetryAfter)) {
			return nil, err
		}
		pause *= 2
	}
}

func (b Backoff) jitter(pause time.Duration) time.Duration {
	if !b.Jitter {
		return pause
	}
	return pause/2 + rand.N(pause/2) //nolint:gosec // spreads load, guards nothing
}

// sleep waits for d. It returns false at once if ctx ends before that.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RetryAfter reads the header of that name, in seconds or as a date. It returns zero for none and
// MaxCooldown at most.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return min(max(time.Duration(seconds)*time.Second, 0), MaxCooldown)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), MaxCooldown)
	}
	return 0
}
