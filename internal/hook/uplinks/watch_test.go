package uplinks

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestUninterrupted: a list that was interrupted is repeated until ctx ends, and no other failure.
func TestUninterrupted(t *testing.T) {
	interrupted, broken := fmt.Errorf("list: %w", netlink.ErrDumpInterrupted), errors.New("broken")
	for name, c := range map[string]struct {
		results []error
		ends    bool // ctx
		want    error
	}{
		"at once":             {[]error{nil}, false, nil},
		"interrupted twice":   {[]error{interrupted, interrupted, nil}, false, nil},
		"fails":               {[]error{broken}, false, broken},
		"ends, and goes on":   {[]error{interrupted}, true, interrupted},
		"fails when repeated": {[]error{interrupted, broken}, false, broken},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			calls := 0
			_, err := uninterrupted(ctx, func() ([]Uplink, error) {
				if c.ends {
					cancel()
				}
				calls++
				return nil, c.results[calls-1]
			})
			if !errors.Is(err, c.want) || calls != len(c.results) {
				t.Errorf("%v after %d calls; want %v after %d", err, calls, c.want, len(c.results))
			}
		})
	}
}
