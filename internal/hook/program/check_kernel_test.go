package program

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// TestCheck: the check finds every program that runs before podid's for a pod, on whatever group.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	above := filepath.Dir(w.podsGroup)
	scope := hooktest.Group(t, w.podsGroup, "burstable", "pod2", "crio-1.scope", "container")
	deeper := hooktest.Group(t, scope, "made-by-the-container")
	for _, c := range []struct {
		name  string
		group string
		flags uint32
		want  string // in the error
	}{
		{"above", above, 0, ""},
		{"the same, after", w.podsGroup, 0, ""},
		{"beside", w.systemGroup, 0, ""},
		{"made by a container", deeper, 0, ""},
		{"a pod's", filepath.Dir(w.podGroup), 0, filepath.Dir(w.podGroup)},
		{"a container's", w.podGroup, 0, w.podGroup},
		{"a scope's", scope, 0, scope},
		{"above, in front", above, unix.BPF_F_PREORDER, w.podsGroup},
		{"the same, in front", w.podsGroup, unix.BPF_F_PREORDER, w.podsGroup},
		{"a container's, in front", w.podGroup, unix.BPF_F_PREORDER, w.podGroup},
	} {
		for name, at := range attachTypes() {
			t.Run(c.name+" by "+name, func(t *testing.T) {
				detach := attachTo(t, c.group, at, c.flags)
				err := w.hook.Check()
				if c.want == "" && err != nil {
					t.Error(err)
				}
				if c.want != "" && (err == nil || !strings.Contains(err.Error(), "before podid's on "+c.want+":")) {
					t.Errorf("error %v", err)
				}
				detach()
				if err := w.hook.Check(); err != nil {
					t.Errorf("after: %v", err)
				}
			})
		}
	}
}

// attachTo puts another's program on a control group, until the returned function is called.
func attachTo(t *testing.T, folder string, at ebpf.AttachType, flags uint32) (detach func()) {
	t.Helper()
	group, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = group.Close() })
	program := foreign(t, ebpf.CGroupSockAddr, at, returning(1))
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(group.Fd()), Program: program, Attach: at, Flags: unix.BPF_F_ALLOW_MULTI | flags,
	})
	if flags != 0 && errors.Is(err, unix.EINVAL) {
		t.Skip("BPF_F_PREORDER needs Linux 6.15")
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(group.Fd()), Program: program, Attach: at})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestCheckOthersGroup: programs on a group that was made again do not pass for programs on it.
func TestCheckOthersGroup(t *testing.T) {
	w := newWorld(t)
	w.hook.group = w.systemGroup
	if err := w.hook.Check(); err == nil || !strings.Contains(err.Error(), "another control group") {
		t.Errorf("error %v", err)
	}
}
