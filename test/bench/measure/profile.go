// Profiles of the programs, for performance analysis.

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// Pprof is the address of a program's profiles.
const Pprof = "http://127.0.0.1:6060/debug/pprof/"

// Profile stores what the address serves in a file.
func Profile(ctx context.Context, client *http.Client, address, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("take profile %s: %w", filepath.Base(file), err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, body, 0o644)
	}
	if err != nil {
		return fmt.Errorf("take profile %s: %w", filepath.Base(file), err)
	}
	return nil
}
