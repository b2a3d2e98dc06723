// Work that is done several at a time.

package stage

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// writers is the number of concurrent writers of the benchmarks.
const writers = 16

// Each calls f for 0 … n-1, several at a time, until one fails.
func Each(ctx context.Context, n int, f func(context.Context, int) error) error {
	return EachOf(ctx, writers, n, f)
}

// EachOf is Each with that many at a time.
func EachOf(ctx context.Context, atOnce, n int, f func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return f(ctx, i)
		})
	}
	return group.Wait()
}
