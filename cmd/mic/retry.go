// Retries until the API server can be reached.

package main

import (
	"context"
	"time"

	"github.com/go-logr/logr"
)

// The backoff between two attempts.
const (
	firstRetry = time.Second
	maxRetry   = 2 * time.Second
)

// retryLoop calls attempt until it succeeds or ctx ends. It logs an error once, not at every
// attempt.
func retryLoop(ctx context.Context, attempt func() error) {
	pause, logged := firstRetry, ""
	for {
		err := attempt()
		if err == nil || ctx.Err() != nil {
			return
		}
		if err.Error() != logged {
			logged = err.Error()
			logr.FromContextOrDiscard(ctx).Error(err, "cannot start, retrying", "in", pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxRetry)
	}
}
