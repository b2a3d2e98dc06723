// Profiles of MIC and the API server, for performance analysis.

package mic

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/test/bench/measure"
)

const profileTime = 10 * time.Second // of a start

// profile starts a CPU profile of that duration, if wanted. The function it returns writes a heap
// profile of MIC.
func (b *bench) profile(ctx context.Context, kube *rest.Config, name string, mic *program, d time.Duration) func() error {
	if b.options.Profile == "" {
		return func() error { return nil }
	}
	var cpu, api error
	var done sync.WaitGroup
	cpuProfile := fmt.Sprintf("profile?seconds=%d", int(d.Seconds()))
	done.Go(func() {
		if cpu = mic.active(ctx); cpu == nil {
			cpu = b.download(ctx, http.DefaultClient, measure.Pprof+cpuProfile, name+".cpu")
		}
	})
	done.Go(func() {
		server, err := rest.HTTPClientFor(kube)
		if err == nil {
			err = b.download(ctx, server, strings.TrimSuffix(kube.Host, "/")+"/debug/pprof/"+cpuProfile, name+".apiserver.cpu")
		}
		api = err
	})
	return func() error {
		done.Wait()
		return errors.Join(cpu, api, b.download(ctx, http.DefaultClient, measure.Pprof+"heap?gc=1", name+".heap"),
			b.download(ctx, http.DefaultClient, measure.Pprof+"allocs", name+".allocs"))
	}
}

// profileServer is profile for the API server alone.
func (b *bench) profileServer(ctx context.Context, kube *rest.Config, name string) func() error {
	if b.options.Profile == "" {
		return func() error { return nil }
	}
	ended := make(chan error, 1)
	go func() {
		server, err := rest.HTTPClientFor(kube)
		if err == nil {
			address := strings.TrimSuffix(kube.Host, "/") + fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(profileTime.Seconds()))
			err = b.download(ctx, server, address, name+".apiserver.cpu")
		}
		ended <- err
	}()
	return func() error { return <-ended }
}

func (b *bench) download(ctx context.Context, from *http.Client, address, name string) error {
	return measure.Profile(ctx, from, address, filepath.Join(b.options.Profile, name))
}
