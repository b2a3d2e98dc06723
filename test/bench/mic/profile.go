// Profiles of MIC, for who looks for what makes it slow.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	profileTime = 10 * time.Second
	pprof       = "http://127.0.0.1:6060/debug/pprof/"
)

// profile takes a CPU profile of the next seconds, if wanted, and with the function that it returns one of the heap.
func (b *bench) profile(ctx context.Context, name string, mic *program) func() error {
	if b.options.profile == "" {
		return func() error { return nil }
	}
	var cpu error
	var done sync.WaitGroup
	done.Go(func() {
		if cpu = mic.until(ctx, "/healthz", "Active"); cpu == nil {
			cpu = b.download(ctx, fmt.Sprintf("profile?seconds=%d", int(profileTime.Seconds())), name+".cpu")
		}
	})
	return func() error {
		done.Wait()
		return errors.Join(cpu, b.download(ctx, "heap?gc=1", name+".heap"), b.download(ctx, "allocs", name+".allocs"))
	}
}

func (b *bench) download(ctx context.Context, what, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, pprof+what, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile MIC: %w", err)
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
		return fmt.Errorf("profile MIC: %w", err)
	}
	return nil
}
