package podgroups

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/testnet"
)

func idOf(t *testing.T, folder string) uint64 {
	t.Helper()
	id, err := program.GroupID(folder)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestIndex: the kernel's events and IDs of control groups are as the index takes them.
func TestIndex(t *testing.T) {
	testnet.Require(t)
	root := hooktest.Group(t, hooktest.Groups(t), "kubepods")
	before := hooktest.Group(t, root, "besteffort", "pod"+first, "a")
	n := &node{t: t, index: New(root)}
	ended := make(chan error, 1)
	go func() { ended <- n.index.Run(t.Context()) }()
	eventually := func(id uint64, want string) { // by events alone: there is no question
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 10*time.Second, true,
			func(context.Context) (bool, error) { return n.known(id) == want, nil })
		if err != nil {
			t.Errorf("pod %q, want %q", n.known(id), want)
		}
	}
	eventually(idOf(t, before), first)
	after := hooktest.Group(t, root, "burstable", "pod"+second, "b")
	id := idOf(t, after)
	eventually(id, second)
	eventually(idOf(t, filepath.Dir(after)), second)
	if err := os.Remove(after); err != nil {
		t.Fatal(err)
	}
	eventually(id, "")

	made := hooktest.Group(t, before, "made", "by", "the", "pod")
	if uid, err := n.index.Lookup(t.Context(), idOf(t, made)); uid != first || err != nil {
		t.Errorf("a group that a pod made: %q, %v", uid, err)
	}
	if uid, err := n.index.Lookup(t.Context(), idOf(t, hooktest.Group(t, root, "system"))); !errors.Is(err, ErrNoPod) {
		t.Errorf("a group of no pod: %q, %v", uid, err)
	}

	for _, folder := range []string{"besteffort", "burstable", "system"} {
		removeAll(t, filepath.Join(root, folder))
	}
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errRootGone) {
		t.Errorf("without the kubelet's group: %v", err)
	}
}

// asLimited is set in the process of TestUserLimit that has a limit of its own.
const asLimited = "PODID_TEST_LIMITED_GROUPS"

// TestUserLimit: at the kernel's limit of watches the index works on, and watches again beyond it.
// The limit is that of a user namespace, so that no other process of this machine meets it.
func TestUserLimit(t *testing.T) {
	testnet.Require(t)
	if root := os.Getenv(asLimited); root != "" {
		limited(t, root)
		return
	}
	root := hooktest.Group(t, hooktest.Groups(t), "kubepods")
	hooktest.Group(t, root, "burstable", "pod"+first, "a")
	for limit, of := range map[string]string{"watches": "2", "instances": "0"} {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUserLimit$", "-test.timeout=1m")
		c.Env = append(os.Environ(), asLimited+"="+root, "LIMIT=/proc/sys/user/max_inotify_"+limit, "OF="+of)
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", limit, err, out)
		}
	}
}

func limited(t *testing.T, root string) {
	set := func(to string) {
		if err := os.WriteFile(os.Getenv("LIMIT"), []byte(to), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(os.Getenv("OF"))
	logged := make(chan string, 10)
	log := funcr.New(func(_, args string) { logged <- args }, funcr.Options{})
	logs := func(want string) {
		select {
		case got := <-logged:
			if !strings.Contains(got, want) {
				t.Errorf("%s: want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing was logged, want %q", want)
		}
	}
	index := New(root)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(logr.NewContext(t.Context(), log))
	go func() { ended <- index.Run(ctx) }()
	logs("raise fs.inotify.max_user_watches")
	name := "limited" + strings.ReplaceAll(os.Getenv("LIMIT"), "/", "-")
	made := hooktest.Group(t, root, "burstable", "pod"+first, name)
	if uid, err := index.Lookup(t.Context(), idOf(t, made)); uid != first || err != nil {
		t.Errorf("at the limit: %q, %v", uid, err)
	}
	set("1000")
	logs("watching control groups again")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// removeAll removes a control group and all below it. The files in it cannot be removed.
func removeAll(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			removeAll(t, filepath.Join(folder, e.Name()))
		}
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
}
