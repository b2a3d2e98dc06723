// Clients: processes in a network namespace and a control group.

package hooktest

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// separator is between ways, and between results.
const separator = "\n"

// Sent is the result of a client that sends without connecting.
const Sent = "sent"

// clientTimeout bounds each step of a client.
const clientTimeout = 10 * time.Second

// Client starts a process in a network namespace and a control group, which connects to the
// metadata service in a way, and returns the body of the answer or the error.
func Client(t testing.TB, in *testnet.Net, group, way string) string {
	t.Helper()
	return Clients(t, in, group, way)[way]
}

// Clients is Client for several ways, one after the other in one process. It returns the results by
// way.
func Clients(t testing.TB, in *testnet.Net, group string, ways ...string) map[string]string {
	t.Helper()
	return clients(t, in, group, ways)
}

// Unprivileged is Clients for a process without capabilities.
func Unprivileged(t testing.TB, in *testnet.Net, group string, ways ...string) map[string]string {
	t.Helper()
	return clients(t, in, group, ways, unprivilegedVariable+"=yes")
}

func clients(t testing.TB, in *testnet.Net, group string, ways []string, variables ...string) map[string]string {
	t.Helper()
	folder, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(ways)+1)*clientTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, os.Args[0])
	// The race detector would have each client wait a second at its end.
	variables = append(variables, waysVariable+"="+strings.Join(ways, separator), "GORACE=atexit_sleep_ms=0")
	command.Env = slices.Concat(os.Environ(), variables)
	command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd()), Pdeathsig: syscall.SIGKILL}
	var out []byte
	err = in.Do(func() (err error) { // on one thread, at whose end the client would be killed
		out, err = command.Output()
		return err
	})
	results := strings.Split(strings.TrimSuffix(string(out), separator), separator)
	if err != nil || len(results) != len(ways) {
		t.Fatalf("client: %v: %s", err, out)
	}
	got := map[string]string{}
	for i, way := range ways {
		got[way] = results[i]
	}
	return got
}

// run connects in a way and asks for a page.
func run(way string) string {
	for _, s := range senders() {
		if s.name != way {
			continue
		}
		if err := s.send(); err != nil {
			return err.Error()
		}
		return Sent
	}
	at := slices.IndexFunc(ways(), func(w connector) bool { return w.name == way })
	if at < 0 {
		return "no such way: " + way
	}
	fd, sent, err := ways()[at].connect()
	if err != nil {
		return err.Error()
	}
	return ask(fd, sent)
}

const request = "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n"

// ask sends the request, unless connecting has, and returns the body of the answer.
func ask(fd int, sent bool) string {
	limit := unix.NsecToTimeval(clientTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err.Error()
	}
	if !sent {
		if _, err := unix.Write(fd, []byte(request)); err != nil {
			return err.Error()
		}
	}
	answer, err := http.ReadResponse(bufio.NewReader(os.NewFile(uintptr(fd), "socket")), nil)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = answer.Body.Close() }()
	body := make([]byte, 4096)
	n, _ := answer.Body.Read(body)
	return strings.TrimSpace(string(body[:n]))
}
