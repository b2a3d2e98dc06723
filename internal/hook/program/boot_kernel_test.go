package program

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf/link"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// TestAnyGroup: before the pods' control group is known, programs on the topmost one apply to all.
// Nothing but a connect of the node's own leaves it. They are replaced by those on the pods' group.
func TestAnyGroup(t *testing.T) {
	w := newUplinked(t)
	inNode(t, w.world, func() error { return Remove(w.pins) })
	pods, podsGroup := w.config.Pods, w.podsGroup
	w.config.Pods, w.podsGroup = 0, filepath.Dir(podsGroup)
	w.leave(t, w.node, "AF_PACKET")
	w.attach(t)
	w.guard(t)
	w.nothingLeaves(t, !w.hook.noEgress.Load())
	w.drops(t, w.node, w.systemGroup, "AF_PACKET")
	w.connects(t)
	w.elsewhere(t, podsGroup, true)
	w.elsewhere(t, w.podsGroup, false)

	top := w.podsGroup
	w.config.Pods, w.podsGroup = pods, podsGroup
	w.attach(t)
	w.guard(t)
	w.nothingLeaves(t, !w.hook.noEgress.Load())
	w.connects(t)
	w.elsewhere(t, top, true)
	for name, at := range attachTypes() {
		f, err := os.Open(top)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is gone from the top", func() (bool, error) { // a link without a pin ends later
			on, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at})
			return err == nil && len(on.Programs) == 0, err
		})
		_ = f.Close()
	}
	before := len(w.tap.Sources())
	if got := hooktest.Client(t, w.node, w.systemGroup, "AF_PACKET"); got != hooktest.Sent {
		t.Errorf("the node's own packet socket: %s", got)
	}
	eventually(t, "the node's own packet arrives", func() (bool, error) { return len(w.tap.Sources()) > before, nil })
}

// TestTakeoverFails: the node's own processes keep the metadata service if the programs that take
// over from those on the topmost group come no further than half way. The next ones succeed.
func TestTakeoverFails(t *testing.T) {
	for name, breakPins := range map[string]func(pins string) (repair func() error, err error){
		"at the guards": func(pins string) (func() error, error) { // a pin that cannot be removed
			pin := filepath.Join(pins, guardName(etherHeader)+"-0"+moving) // before that of the uplink
			return func() error { return os.RemoveAll(pin) }, os.MkdirAll(filepath.Join(pin, "x"), 0o700)
		},
		"at a connect": func(pins string) (func() error, error) { // connect4 has been moved, or not
			pin, aside := filepath.Join(pins, connect6), filepath.Join(pins, "aside")
			if err := os.Rename(pin, aside); err != nil {
				return nil, err
			}
			repair := func() error { return errors.Join(os.Remove(pin), os.Rename(aside, pin)) }
			return repair, os.Mkdir(pin, 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newUplinked(t)
			inNode(t, w.world, func() error { return Remove(w.pins) })
			pods, podsGroup := w.config.Pods, w.podsGroup
			w.config.Pods, w.podsGroup = 0, filepath.Dir(podsGroup)
			w.attach(t)
			w.guard(t)
			w.config.Pods, w.podsGroup = pods, podsGroup
			repair, err := breakPins(w.pins)
			if err != nil {
				t.Fatal(err)
			}
			inNode(t, w.world, func() error {
				h, err := Attach(w.config, w.podsGroup, w.pins)
				if err != nil {
					return nil //nolint:nilerr // as it should be
				}
				h.Close()
				return errors.New("the programs take over")
			})
			w.connects(t)
			if err := repair(); err != nil {
				t.Fatal(err)
			}
			w.attach(t)
			w.connects(t)
			w.drops(t, w.node, w.podGroup, "AF_PACKET")
		})
	}
}

// connects fails the test unless the node reaches the metadata service, and the pod is refused.
func (w *uplinked) connects(t *testing.T) {
	t.Helper()
	if got := hooktest.Client(t, w.node, w.systemGroup, "connect"); got != "metadata service" {
		t.Errorf("a process of the node: %q", got)
	}
	if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != "connection refused" {
		t.Errorf("a pod: %q", got)
	}
}

func (w *uplinked) elsewhere(t *testing.T, group string, want bool) {
	t.Helper()
	if got, err := Elsewhere(group, w.pins); err != nil || got != want {
		t.Errorf("on another group than %s: %v, %v; want %v", filepath.Base(group), got, err, want)
	}
}
