// How a request takes its turn at a source.

package token

import "context"

// acquire waits for the request's turn. One in the background that somebody
// comes to wait for leaves that queue for the caller's own, now and from then on.
func (r *Request) acquire(ctx context.Context, l Limiter) (release func(), err error) {
	if r.Wanted == nil {
		return l.Acquire(ctx, r.Caller)
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
	release, err = l.Acquire(waiting, r.Caller)
	stop()
	if caller, ok := <-wanted; ok {
		r.Caller, r.Wanted = caller, nil
	}
	if err != nil && r.Wanted == nil && ctx.Err() == nil {
		return l.Acquire(ctx, r.Caller)
	}
	return release, err
}
