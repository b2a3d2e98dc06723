// Profiles of MIC and the API server, for performance analysis.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

const (
	profileTime = 10 * time.Second // of a start
	pprof       = "http://127.0.0.1:6060/debug/pprof/"
)

// profile starts a CPU profile of that duration, if wanted. The function it returns writes a heap
// profile of MIC.
func (b *bench) profile(ctx context.Context, kube *rest.Config, name string, mic *program, d time.Duration) func() error {
	if b.options.profile == "" {
		return func() error { return nil }
	}
	var cpu, api error
	var done sync.WaitGroup
	cpuProfile := fmt.Sprintf("profile?seconds=%d", int(d.Seconds()))
	done.Go(func() {
		if cpu = mic.until(ctx, "/healthz", "Active"); cpu == nil {
			cpu = b.download(ctx, http.DefaultClient, pprof+cpuProfile, name+".cpu")
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
		return errors.Join(cpu, api, b.download(ctx, http.DefaultClient, pprof+"heap?gc=1", name+".heap"),
			b.download(ctx, http.DefaultClient, pprof+"allocs", name+".allocs"))
	}
}

// profileServer is profile for the API server alone.
func (b *bench) profileServer(ctx context.Context, kube *rest.Config, name string) func() error {
	if b.options.profile == "" {
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := from.Do(req)
	if err != nil {
		return fmt.Errorf("take profile %s: %w", name, err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err == nil {
		err = os.MkdirAll(b.options.profile, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(b.options.profile, name), body, 0o644)
	}
	if err != nil {
		return fmt.Errorf("take profile %s: %w", name, err)
	}
	return nil
}
