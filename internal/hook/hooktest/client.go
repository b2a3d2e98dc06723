// Clients: processes in a network namespace and a control group.

package hooktest

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
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

// Caller is a process that connects to the metadata service.
type Caller struct {
	In    *testnet.Net
	Group string // the folder of its control group
	// Target is the path and query that it asks for; "/" if empty.
	Target string
	// Unprivileged means without capabilities, OwnGroups in a control group namespace of its own, and
	// OwnUsers in a user namespace of its own.
	Unprivileged, OwnGroups, OwnUsers bool
}

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
	return Caller{In: in, Group: group}.Ask(t, ways...)
}

// Unprivileged is Clients for a process without capabilities.
func Unprivileged(t testing.TB, in *testnet.Net, group string, ways ...string) map[string]string {
	t.Helper()
	return Caller{In: in, Group: group, Unprivileged: true}.Ask(t, ways...)
}

// Ask starts the process, which connects in several ways, one after the other. It returns the
// bodies of the answers, or the errors, by way.
func (c Caller) Ask(t testing.TB, ways ...string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for i, result := range c.run(t, ways) {
		got[ways[i]] = result
	}
	return got
}

// Repeat is Ask for one way many times. It returns how often there was each result.
func (c Caller) Repeat(t testing.TB, way string, times int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, result := range c.run(t, slices.Repeat([]string{way}, times)) {
		got[result]++
	}
	return got
}

// run returns the results in the order of the ways.
func (c Caller) run(t testing.TB, ways []string) []string {
	t.Helper()
	folder, err := os.Open(c.Group)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(ways)+1)*clientTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, os.Args[0])
	command.Env = slices.Concat(os.Environ(), c.variables(ways))
	command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd()), Pdeathsig: syscall.SIGKILL}
	if c.OwnUsers {
		own := []syscall.SysProcIDMap{{Size: 1}}
		command.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings, command.SysProcAttr.GidMappings = own, own
	}
	var out []byte
	err = c.In.Do(func() (err error) { // on one thread, at whose end the client would be killed
		out, err = command.Output()
		return err
	})
	results := strings.Split(strings.TrimSuffix(string(out), separator), separator)
	if err != nil || len(results) != len(ways) {
		t.Fatalf("client: %v: %s", err, out)
	}
	return results
}

// variables returns the environment that makes the test binary this process.
func (c Caller) variables(ways []string) []string {
	// The race detector would have each client wait a second at its end.
	all := []string{waysVariable + "=" + strings.Join(ways, separator), "GORACE=atexit_sleep_ms=0"}
	if c.Target != "" {
		all = append(all, targetVariable+"="+c.Target)
	}
	if c.Unprivileged {
		all = append(all, unprivilegedVariable+"=yes")
	}
	if c.OwnGroups {
		all = append(all, ownGroupsVariable+"=yes")
	}
	return all
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
	all := append(append(ways(), ways6()...), connector{Briefly, briefly}, connector{OtherPort, otherPort})
	at := slices.IndexFunc(all, func(w connector) bool { return w.name == way })
	if at < 0 {
		return "no such way: " + way
	}
	fd, sent, err := all[at].connect()
	if err != nil {
		return err.Error()
	}
	return ask(fd, sent)
}

// request returns what a client sends.
func request() []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n",
		cmp.Or(os.Getenv(targetVariable), "/"))
}

// ask sends the request, unless connecting has, and returns the body of the answer.
func ask(fd int, sent bool) string {
	limit := unix.NsecToTimeval(clientTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err.Error()
	}
	if !sent {
		if _, err := unix.Write(fd, request()); err != nil {
			return err.Error()
		}
	}
	answer, err := http.ReadResponse(bufio.NewReader(os.NewFile(uintptr(fd), "socket")), nil)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(strings.TrimSpace(string(body)), separator, " ")
}
