package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// TestRemove: the guards go before connect4, and connect4 before the maps, so that wherever removal
// stops, host-network pods reach the metadata service, and pods do not before connect4 is gone.
func TestRemove(t *testing.T) {
	for _, noTCX := range []bool{false, true} {
		t.Run(fmt.Sprintf("without tcx: %v", noTCX), func(t *testing.T) {
			w := newUplinked(t)
			w.hook.noTCX = noTCX
			w.guard(t)
			expect := func(when, pod string) {
				t.Helper()
				if got := hooktest.Client(t, w.node, w.podGroup, "connect"); got != "metadata service" {
					t.Errorf("%s, host-network pod: %q", when, got)
				}
				if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != pod {
					t.Errorf("%s, pod: %q", when, got)
				}
			}
			expect("before", refused)
			w.removeUntil(t, "guards")
			expect("without guards", refused)
			w.removeUntil(t, "dummy") // between those of the maps
			expect("without programs", "metadata service")
			inNode(t, w.world, func() error { return Remove(w.pins) })
			expect("after", "metadata service")
			if _, err := os.Stat(w.pins); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the folder of the pins: %v", err)
			}
			if err := w.guarded(t); err == nil {
				t.Error("the uplink passes for guarded")
			}
		})
	}
}

// removeUntil removes the programs up to a name, which cannot be removed.
func (w *uplinked) removeUntil(t *testing.T, name string) {
	t.Helper()
	stop := hooktest.Group(t, w.pins, name, "x") // any folder
	inNode(t, w.world, func() error {
		if err := Remove(w.pins); err == nil {
			t.Error("removal did not stop")
		}
		return errors.Join(os.Remove(stop), os.Remove(filepath.Dir(stop)))
	})
}
