// Package source is what the clients of the metadata service (token/imds) and of Entra ID
// (token/entra) share: waiting for a turn, retrying, reading a token reply, and checking that the
// token is for the identity that was asked for.
package source

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
)

// Limiter bounds the calls to an authority. An error while ctx is valid means that the caller has
// too many calls waiting. An error with the method RetryAfter() time.Duration means that no caller
// may call for that long.
type Limiter interface {
	Acquire(ctx context.Context, caller string) (release func(), err error)
	// StayAway blocks all calls for a while. It ignores zero and negative durations.
	StayAway(d time.Duration)
}

// Meter records the duration and the error of each call to an authority.
type Meter interface {
	SourceOperation(operation string, took time.Duration, err error)
}

// Calls is the configuration that all clients share.
type Calls struct {
	Limiter Limiter
	Meter   Meter
	// Operation names the calls in the metrics.
	Operation string
	UserAgent string
}

// FirstCallTimeout bounds the first call of a request. An authority answers in milliseconds from
// its cache and in a second or two otherwise, so a longer call was probably lost. Further calls may
// use the time that is left.
const FirstCallTimeout = 5 * time.Second

// Measure runs one call, bounds it if it is the first of its request, and records it.
func (c *Calls) Measure(
	ctx context.Context, first bool, call func(context.Context) (*token.Token, error),
) (*token.Token, error) {
	if first {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, FirstCallTimeout)
		defer cancel()
	}
	began := time.Now()
	t, err := call(ctx)
	c.Meter.SourceOperation(c.Operation, time.Since(began), err)
	return t, err
}

// Acquire waits for the request's turn. A background request that a caller comes to wait for moves
// to the queue of that caller and stays there.
func (c *Calls) Acquire(ctx context.Context, r *token.Request) (release func(), err error) {
	if r.Wanted == nil {
		return c.Limiter.Acquire(ctx, r.Caller)
	}
	waiting, stop := context.WithCancel(ctx)
	wanted := make(chan string, 1)
	go func() {
		defer close(wanted)
		defer stop()
		select {
		case caller := <-r.Wanted:
			wanted <- caller
		case <-waiting.Done():
		}
	}()
	release, err = c.Limiter.Acquire(waiting, r.Caller)
	stop()
	if caller, ok := <-wanted; ok {
		r.Caller, r.Wanted = caller, nil
	}
	if err != nil && r.Wanted == nil && ctx.Err() == nil {
		return c.Limiter.Acquire(ctx, r.Caller)
	}
	return release, err
}

// Name returns the identity as namespace/name.
func Name(id *v1.AzureIdentity) string { return id.Namespace + "/" + id.Name }

// StripURL removes the URL that net/http puts before its errors: it has the whole client ID.
func StripURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// Shorten cuts a client ID within a text to its first 8 characters, in any case: the text goes to
// logs.
func Shorten(text, clientID string) string {
	const keep = 8
	if len(clientID) <= keep {
		return text
	}
	return regexp.MustCompile("(?i)"+regexp.QuoteMeta(clientID)).ReplaceAllLiteralString(text, clientID[:keep]+"…")
}

// Brief returns a client ID as messages show it.
func Brief(clientID string) string { return Shorten(clientID, clientID) }

// Clip returns at most the first most bytes of a text, with an ellipsis where something is missing.
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
