package compute

// Waiting for ARM's long-running operations.

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// pollEvery is the time between two looks at an operation. The SDK's own loop would take 30 s, or whatever
// Retry-After says in each answer (10 s and more for machines); pods wait for these operations, so a look a second it
// is, within the Client's budget of polls. A Retry-After on an operation that goes on is a hint about its length and
// not obeyed; on a refused poll (429) it is.
const pollEvery = time.Second

// pollRefusals is how many polls in a row may be refused before the operation is given up on; it goes on in Azure
// regardless.
const pollRefusals = 5

// finish waits until the operation is over and returns its result, which is the resource as ARM shows it afterwards.
func finish[T any](ctx context.Context, c *Client, poller *runtime.Poller[T]) (T, error) {
	var none T
	refused := 0
	for !poller.Done() {
		if err := pause(ctx, pollEvery); err != nil {
			return none, err
		}
		if err := c.polls.Wait(ctx); err != nil {
			return none, err
		}
		_, err := poller.Poll(ctx) //nolint:bodyclose // the SDK has read it, and Result reads it again
		if err == nil {
			refused = 0
			continue
		}
		delay, again := pollAgain(err)
		refused++
		if !again || refused == pollRefusals {
			return none, err
		}
		if err := pause(ctx, delay); err != nil {
			return none, err
		}
	}
	return poller.Result(ctx)
}

// pollAgain says whether a failed poll leaves the operation worth waiting for, and how long to stay away.
func pollAgain(err error) (time.Duration, bool) {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok || answer.StatusCode != http.StatusTooManyRequests {
		return 0, false
	}
	if answer.RawResponse == nil {
		return defaultRetryAfter, true
	}
	if delay := retryAfter(answer.RawResponse.Header); delay > 0 {
		return delay, true
	}
	return defaultRetryAfter, true
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
