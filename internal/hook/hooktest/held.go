// Clients that are connected before they ask.

package hooktest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/podid-io/podid/internal/testnet"
)

// holdVariable makes a test binary a client that connects in a way, and asks when it reads a line.
const holdVariable = "PODID_TEST_HOLD"

// Held is a client that is connected to the metadata service.
type Held struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// Hold starts a process in a network namespace and a control group, which connects to the metadata
// service in a way, and waits until it is connected. It ends with the test, if not before.
func Hold(t testing.TB, in *testnet.Net, group, way string) *Held {
	t.Helper()
	folder, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = slices.Concat(os.Environ(), []string{holdVariable + "=" + way, "GORACE=atexit_sleep_ms=0"})
	command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
	stdin, err1 := command.StdinPipe()
	stdout, err2 := command.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := in.Do(command.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	h := &Held{t, stdin, bufio.NewReader(stdout)}
	if got := h.line(); got != connected {
		t.Fatalf("client: %s", got)
	}
	return h
}

// connected is what the client writes once it is connected.
const connected = "connected"

// Ask lets the client ask on its connection, once. It returns the body of the answer or the error.
func (h *Held) Ask() string {
	h.t.Helper()
	h.Send()
	return h.line()
}

// Send is Ask without waiting for the answer.
func (h *Held) Send() {
	h.t.Helper()
	if _, err := io.WriteString(h.in, separator); err != nil {
		h.t.Fatal(err)
	}
}

func (h *Held) line() string {
	h.t.Helper()
	line, err := h.out.ReadString('\n')
	if err != nil {
		h.t.Fatalf("client: %v: %s", err, line)
	}
	return strings.TrimSuffix(line, separator)
}

// hold is the client.
func hold(way string) {
	at := slices.IndexFunc(ways(), func(w connector) bool { return w.name == way })
	if at < 0 {
		fmt.Print("no such way: ", way, separator)
		return
	}
	fd, sent, err := ways()[at].connect()
	if err != nil {
		fmt.Print(err, separator)
		return
	}
	fmt.Print(connected, separator)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err == nil {
		fmt.Print(ask(fd, sent), separator)
	}
}
