// Waiting for ARM's long-running operations.

package compute

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Bounds of failed polls. The operation continues in Azure without them, so a poll without a
// response is retried until the bound of the whole operation.
const (
	pollTimeout  = 15 * time.Second
	firstBackoff = time.Second
	mostBackoff  = 30 * time.Second
)

// forgottenEvery is the time between two reads of a group whose operation ARM no longer knows.
const forgottenEvery = 5 * time.Second

// finish waits until the operation is over and returns the group as ARM shows it then. It does not
// use the SDK's own loop, which polls every 30 s or as often as Retry-After says (10 s and more for
// machines). On success Retry-After is only a hint about the operation's length, so finish ignores
// it and polls when the limits allow. The limits do include the Retry-After of a refused poll. read
// also reports whether the last answer was the group. If it was not, finish reads the group itself.
// It also does so when Azure reports that the operation has only begun and gives no polling URL.
func finish[T any](
	ctx context.Context, c *Client, group Group, sent *writeOutcome, poller *runtime.Poller[T], read func(T) (snapshot, bool),
) (snapshot, error) {
	if sent.later && poller.Done() {
		return c.follow(ctx, group)
	}
	answer, ok, err := await(ctx, c, group, poller)
	if err != nil {
		return snapshot{}, err
	}
	if ok {
		if have, ok := read(answer); ok {
			return have, nil
		}
	}
	return c.follow(ctx, group)
}

// await polls until the operation is over and returns its last answer. ok is false if ARM no longer
// knows the operation.
func await[T any](ctx context.Context, c *Client, group Group, poller *runtime.Poller[T]) (answer T, ok bool, err error) {
	look := policy.WithRetryOptions(ctx, policy.RetryOptions{MaxRetries: -1, TryTimeout: pollTimeout})
	var backoff time.Duration
	var lost error // why the last poll got no response
	for {
		if !poller.Done() || backoff > 0 {
			if err := pause(ctx, max(c.limits.nextPoll(group, time.Now()), backoff, asked(lost))); err != nil {
				return answer, false, timedOut(err, lost)
			}
		}
		answer, ok, err = poll(look, poller)
		switch {
		case ok:
			return answer, true, nil
		case err == nil:
			backoff, lost = 0, nil
		case ctx.Err() != nil:
			return answer, false, timedOut(err, lost)
		case forgotten(err), poller.Done() && notARM(err):
			return answer, false, nil
		case !transient(err):
			return answer, false, err
		default:
			backoff, lost = nextBackoff(backoff), err
		}
	}
}

// poll asks once. done reports that the operation is over, and answer is what it returned.
func poll[T any](ctx context.Context, poller *runtime.Poller[T]) (answer T, done bool, err error) {
	if _, err := poller.Poll(ctx); err != nil || !poller.Done() { //nolint:bodyclose // the SDK has read it, and Result reads it again
		return answer, false, err
	}
	answer, err = poller.Result(ctx)
	return answer, err == nil, err
}

// asked returns the pause that the response to a failed poll requests. (The limits only handle
// 429.)
func asked(err error) time.Duration {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok || answer.RawResponse == nil {
		return 0
	}
	return retryAfter(answer.RawResponse.Header)
}

// watch waits for the end of a VM's update by reading the VM. One read returns the end, the result
// and the caller's next read, which matters because there are far more VMs than scale sets. watch
// reports whether the update succeeded. If it did not, the operation has the reason.
func (c *Client) watch(ctx context.Context, group Group, change change) (snapshot, bool) {
	c.limits.running(group, 1)
	defer c.limits.running(group, -1)
	for {
		if pause(ctx, c.limits.nextRead(group, time.Now())) != nil {
			return snapshot{}, false
		}
		have, err := c.read(ctx, group)
		if err != nil || !have.Updating {
			return have, err == nil && verify(group, change, have.Identities) == nil
		}
	}
}

// follow waits for the end of the group's current operation by reading the group itself.
func (c *Client) follow(ctx context.Context, group Group) (snapshot, error) {
	var backoff time.Duration
	for {
		have, err := c.get(ctx, group)
		switch {
		case err == nil && !have.Updating:
			return have, nil
		case err == nil:
			backoff = 0
		case ctx.Err() != nil || !transient(err):
			return snapshot{}, err
		default:
			backoff = nextBackoff(backoff)
		}
		later, _ := RetryAfter(err)
		if err := pause(ctx, max(forgottenEvery, backoff, later)); err != nil {
			return snapshot{}, timedOut(err, nil)
		}
	}
}

// timedOut returns the error for an operation that exceeded its bound, with the error of the last
// poll.
func timedOut(err, lost error) error {
	err = fmt.Errorf("waiting for Azure, where the operation may go on: %w", err)
	if lost == nil {
		return err
	}
	return fmt.Errorf("%w; the last look at it: %w", err, lost)
}

// forgotten reports whether ARM does not know the operation (any more).
func forgotten(err error) bool {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	return ok && (answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusGone)
}

// transient reports whether the wait may continue after a failed poll: there was no response, or
// one that asks to retry.
func transient(err error) bool {
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return false
	}
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return true
	}
	return answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout ||
		answer.StatusCode >= http.StatusInternalServerError || notARM(err)
}

// nextBackoff returns the next pause after a poll that failed.
func nextBackoff(backoff time.Duration) time.Duration {
	return min(max(2*backoff, firstBackoff), mostBackoff)
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
