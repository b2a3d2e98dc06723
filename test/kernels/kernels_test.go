package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/test/kernels/vm"
)

func TestChoose(t *testing.T) {
	all, err := choose(nil)
	if err != nil || len(all) != len(kernels()) {
		t.Errorf("all: %v, %v", all, err)
	}
	one, err := choose([]string{"6.1"})
	if err != nil || len(one) != 1 || one[0].name != "6.1" {
		t.Errorf("6.1: %v, %v", one, err)
	}
	if _, err := choose([]string{"6.1", "2.4"}); err == nil || !strings.Contains(err.Error(), "choose from 5.10, ") {
		t.Errorf("an unknown one: %v", err)
	}
}

// TestKernelTests: the tests that the table reads are among those that run.
func TestKernelTests(t *testing.T) {
	t.Chdir("../..")
	found, err := kernelTests()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{testInPods, testFallback} {
		if !slices.Contains(found["cmd/nmi"], want) {
			t.Errorf("no %s in cmd/nmi: %v", want, found["cmd/nmi"])
		}
	}
	for _, want := range []string{"internal/hook/program", "internal/agent/redirect", "internal/agent/sockdiag"} {
		if len(found[want]) == 0 {
			t.Errorf("no tests in %s: %v", want, slices.Sorted(maps.Keys(found)))
		}
	}
	if slices.Contains(found["internal/hook/hooktest"], "TestMain") {
		t.Error("TestMain is no test")
	}
}

// TestLoadOrder: modules come after those that they depend on, once, and those that are built in
// not at all.
func TestLoadOrder(t *testing.T) {
	const dep = `kernel/net/sched/cls_bpf.ko:
kernel/net/nft_ct.ko.xz: kernel/net/nf_tables.ko.xz kernel/net/nf_conntrack.ko.xz kernel/lib/libcrc32c.ko.xz
kernel/net/nf_tables.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/crypto/a-b.ko:
`
	got := loadOrder(dep, []string{"veth", "nft_ct", "nf_tables", "cls_bpf", "a_b"})
	want := []string{
		"kernel/lib/libcrc32c.ko.xz", "kernel/net/nf_conntrack.ko.xz", "kernel/net/nf_tables.ko.xz",
		"kernel/net/nft_ct.ko.xz", "kernel/net/sched/cls_bpf.ko", "kernel/crypto/a-b.ko",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestCPIO: names and contents are filled up to four bytes, and folders come first, once.
func TestCPIO(t *testing.T) {
	var out bytes.Buffer
	c := newCPIO(&out)
	if err := errors.Join(c.folder("a/b"), c.folder("a"), c.text("a/c", "12345"), c.close()); err != nil {
		t.Fatal(err)
	}
	entry := func(inode, mode, size int, name, fill, content string) string {
		return fmt.Sprintf("070701%08X%08X00000000000000000000000100000000%08X%s%08X00000000%s\x00%s%s",
			inode, mode, size, strings.Repeat("0", 32), len(name)+1, name, fill, content)
	}
	want := entry(1, folderMode, 0, "a", "", "") + entry(2, folderMode, 0, "a/b", "\x00\x00", "") +
		entry(3, programMode, 5, "a/c", "\x00\x00", "12345\x00\x00\x00") + entry(4, 0, 0, "TRAILER!!!", "\x00\x00\x00", "")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

const output = `### kernel 6.1.0-50
### program cmd.nmi
=== RUN   TestCaptureInPods
--- PASS: TestCaptureInPods (1.00s)
=== RUN   TestBad
=== RUN   TestBad/part
    a_test.go:7: a reason
    --- FAIL: TestBad/part (0.00s)
--- FAIL: TestBad (0.00s)
=== RUN   TestOld
    a_test.go:9: needs Linux 6.6
--- SKIP: TestOld (0.00s)
FAIL
### exit exit status 1
`

func TestRead(t *testing.T) {
	for _, test := range []struct {
		name, text, row string
		bad             bool
		details         string
	}{
		{
			"passed", "### program cmd.nmi\n--- PASS: TestCaptureInPods (1.00s)\nPASS\n### end \n",
			"1 0 0 0s inside pods", false, "",
		},
		{
			"failed", output + vm.End.Line(""),
			"6.1.0-50 1 1 1 0s inside pods", true, "FAIL  6.1: cmd.nmi TestBad\n" +
				"      === RUN   TestBad/part\n          a_test.go:7: a reason\n" +
				"          --- FAIL: TestBad/part (0.00s)\n      --- FAIL: TestBad (0.00s)\n" +
				"skip  6.1: needs Linux 6.6: TestOld\n",
		},
		{
			"crashed", "### program a\n=== RUN   TestA\npanic: b\n### exit exit status 2\n### end \n",
			"0 1 0 0s not seen", true, "FAIL  6.1: a (exit status 2)\n      panic: b\n",
		},
		{
			"not run to the end", "### program cmd.nmi\n--- PASS: TestCaptureInPods (1.00s)\n",
			"1 0 0 0s inside pods, not run to the end", true, "FAIL  6.1: the machine ended before the tests\n",
		},
		{
			"could not run", vm.Trouble.Line("load veth.ko:\nno"),
			"0 0 0 0s not seen, not run to the end", true, "FAIL  6.1: load veth.ko:: no\n",
		},
		{
			"falls back where it must not", "### program cmd.nmi\n--- PASS: TestCaptureOldKernel (1.00s)\n### end \n",
			"1 0 0 0s on the wire, with the reason in the log", true, "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := read(test.text)
			r.kernel = kernel{name: "6.1", inPods: true}
			rows := strings.Split(strings.TrimSpace(table([]result{r})), "\n")
			if row := strings.Join(strings.Fields(rows[1])[1:], " "); row != test.row || r.bad() != test.bad {
				t.Errorf("row %q, bad %v", row, r.bad())
			}
			if diff := cmp.Diff(test.details, r.details()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMissing: a kernel that could not be had is in the table, and fails the run only if it is the
// only one.
func TestMissing(t *testing.T) {
	r := result{kernel: kernel{name: "6.8"}, missing: errors.New("no\nanswer")}
	if text := table([]result{r}); !strings.Contains(text, "could not be had: no: answer") {
		t.Error(text)
	}
	good := read("### program cmd.nmi\n--- PASS: TestCaptureOldKernel (1.00s)\n### end \n")
	if err := verdict([]result{r, good}); err != nil {
		t.Errorf("with another: %v", err)
	}
	if err := verdict([]result{r}); err == nil {
		t.Error("alone: no error")
	}
}
