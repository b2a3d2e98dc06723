// Profiles of NMI, for performance analysis.

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
)

const pprof = "http://127.0.0.1:6060/debug/pprof/"

// profile starts a CPU profile as long as a turn, if wanted. The function it returns writes a heap
// profile.
func (b *bench) profile(ctx context.Context, name string, wanted bool) func() error {
	if b.options.profile == "" || !wanted {
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, pprof+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
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
