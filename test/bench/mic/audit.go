// What MIC writes, counted by the API server.

package mic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/test/bench/measure"
)

const (
	// calm is how long MIC must not have written anything, except the Lease, to be considered idle.
	calm     = 3 * time.Second
	calmTime = 90 * time.Second
)

// audit reads the API server's audit log as it grows.
type audit struct {
	file   string
	offset int64
}

// writes counts MIC's writes by kind.
type writes map[string]int

func (w writes) total() int {
	n := 0
	for _, count := range w {
		n += count
	}
	return n
}

// of returns the number of writes to one kind of object.
func (w writes) of(resource string) int {
	n := 0
	for what, count := range w {
		if strings.HasSuffix(what, " "+resource) || strings.Contains(what, " "+resource+"/") {
			n += count
		}
	}
	return n
}

// String lists the writes, the most frequent first.
func (w writes) String() string {
	kinds := slices.SortedFunc(maps.Keys(w), func(a, b string) int { return w[b] - w[a] })
	var parts []string
	for _, kind := range kinds {
		parts = append(parts, fmt.Sprintf("%d %s", w[kind], kind))
	}
	return strings.Join(parts, ", ")
}

func (w writes) add(more writes) {
	for kind, n := range more {
		w[kind] += n
	}
}

// take returns the writes since the last call.
func (a *audit) take() (writes, error) {
	file, err := os.Open(a.file)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(a.offset, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the last line may be incomplete
	a.offset += int64(len(text))
	return parseAudit(text)
}

func parseAudit(text []byte) (writes, error) {
	w := writes{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Stage  string `json:"stage"`
			Verb   string `json:"verb"`
			Object struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
			} `json:"objectRef"`
			Response struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		if event.Stage != "ResponseComplete" {
			continue
		}
		what := event.Verb + " " + event.Object.Resource
		if event.Object.Subresource != "" {
			what += "/" + event.Object.Subresource
		}
		if event.Response.Code >= 300 {
			what = fmt.Sprintf("%d for %s", event.Response.Code, what)
		}
		w[what]++
	}
	return w, lines.Err()
}

// rest waits until MIC has not written anything for a while, and returns all its writes since the
// last call of take.
func (a *audit) rest(ctx context.Context) (writes, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, calmTime, fmt.Errorf("it still writes after %s", calmTime))
	defer cancel()
	all, last := writes{}, time.Now()
	for time.Since(last) < calm {
		measure.Pause(ctx, calm/20)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait until MIC is at rest: %w: %s", context.Cause(ctx), all)
		}
		more, err := a.take()
		if err != nil {
			return nil, err
		}
		all.add(more)
		if more.total() > more.of("leases") {
			last = time.Now()
		}
	}
	return all, nil
}
