// Profiles of NMI, for performance analysis.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/podid-io/podid/test/bench/measure"
)

// profile starts a CPU profile as long as a turn, if wanted. The function it returns writes a heap
// profile.
func (b *bench) profile(ctx context.Context, name string, wanted bool) func() error {
	if b.options.Profile == "" || !wanted {
		return func() error { return nil }
	}
	var cpu error
	var done sync.WaitGroup
	seconds := max(int(b.options.round.Seconds())-1, 1)
	done.Go(func() { cpu = b.download(ctx, fmt.Sprintf("profile?seconds=%d", seconds), name+".cpu") })
	return func() error {
		done.Wait()
		return errors.Join(cpu, b.download(ctx, "heap?gc=1", name+".heap"), b.download(ctx, "allocs", name+".allocs"))
	}
}

func (b *bench) download(ctx context.Context, path, name string) error {
	return measure.Profile(ctx, http.DefaultClient, measure.Pprof+path, filepath.Join(b.options.Profile, name))
}
