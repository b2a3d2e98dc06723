// Several agents in one process. A session is a Unix socket, so no network is needed.

package handover

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

// testTimeout is how long a test waits for what should happen at once.
const testTimeout = 20 * time.Second

// agent is one generation: a session, and listeners that answer with the agent's name.
type agent struct {
	t       *testing.T
	name    string
	session *Session
	stop    context.CancelFunc
	stopped chan struct{}
	back    atomic.Int64 // how often it took the rules back
	fail    atomic.Bool  // taking them back fails
}

func newAgent(t *testing.T, name string) *agent {
	a := &agent{t: t, name: name, session: New(logr.Discard()), stopped: make(chan struct{})}
	if err := a.session.Open(); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(t.Context())
	go func() {
		defer close(a.stopped)
		a.session.Run(ctx, func(context.Context) error {
			a.back.Add(1)
			if a.fail.Load() {
				return errors.New("broken")
			}
			return nil
		})
	}()
	t.Cleanup(func() { a.stop(); <-a.stopped })
	return a
}

// serve answers at the address with the agent's name until the agent stops.
func (a *agent) serve(address string) net.Listener {
	a.t.Helper()
	l, err := a.session.Listen(a.t.Context(), networkOf(address), address)
	if err != nil {
		a.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, a.name+"\n")
			_ = c.Close()
		}
	}()
	a.t.Cleanup(func() { _ = l.Close(); <-done })
	return l
}

// networkOf returns the network of an address: a path is that of a Unix socket.
func networkOf(address string) string {
	if filepath.IsAbs(address) {
		return "unix"
	}
	return "tcp"
}

// free returns an address at which no process listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// answeredBy returns the name of the agent that answers at the address.
func answeredBy(t *testing.T, address string) string {
	t.Helper()
	c, err := net.DialTimeout(networkOf(address), address, testTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return name[:len(name)-1]
}

func (a *agent) wantState(want State) {
	a.t.Helper()
	deadline := time.After(testTimeout)
	for {
		state, changed := a.session.State()
		if state == want {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			a.t.Fatalf("%s: state %d, want %d", a.name, state, want)
		}
	}
}

func (a *agent) join(older *agent, now, later []string) *OlderAgent {
	a.t.Helper()
	o, err := a.session.Join(a.t.Context(), older.session.Secret(), now, later)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(o.Close)
	return o
}

func wantAnswers(t *testing.T, address, name string) {
	t.Helper()
	for range 20 { // only one process may accept, or the kernel would choose
		if got := answeredBy(t, address); got != name {
			t.Fatalf("%s answers, want %s", got, name)
		}
	}
}

func TestHandover(t *testing.T) {
	probes, host, own := free(t), free(t), free(t)
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	older.serve(probes)
	older.serve(host)
	o := newer.join(older, []string{probes, own}, []string{host})
	older.wantState(Starting)
	newer.serve(probes)
	newer.serve(own) // the older agent does not have it
	wantAnswers(t, probes, "newer")
	wantAnswers(t, own, "newer")
	wantAnswers(t, host, "older")

	newer.serve(host)
	if err := o.ReportServing(); err != nil {
		t.Fatal(err)
	}
	older.wantState(Serving)
	wantAnswers(t, host, "newer")

	older.stop()
	<-o.Gone()
	wantAnswers(t, probes, "newer")
	wantAnswers(t, host, "newer")
	if older.back.Load() != 0 {
		t.Error("an agent that stops took the rules back")
	}
}

func TestNewerDies(t *testing.T) {
	for _, serving := range []bool{false, true} {
		t.Run(fmt.Sprint("serving ", serving), func(t *testing.T) {
			probes, host := free(t), free(t)
			older, newer := newAgent(t, "older"), newAgent(t, "newer")
			older.serve(probes)
			older.serve(host)
			o := newer.join(older, []string{probes}, []string{host})
			l := newer.serve(probes)
			if serving {
				if err := o.ReportServing(); err != nil {
					t.Fatal(err)
				}
				older.wantState(Serving)
			}
			_ = l.Close()
			o.Close()
			older.wantState(Alone)
			wantAnswers(t, probes, "older")
			wantAnswers(t, host, "older")

			third := newAgent(t, "third") // the next newer agent is served too
			third.join(older, []string{probes}, nil)
			third.serve(probes)
			wantAnswers(t, probes, "third")
			if older.back.Load() != 1 {
				t.Errorf("the rules were taken back %d times", older.back.Load())
			}
		})
	}
}

func TestNewerStops(t *testing.T) {
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	o := newer.join(older, nil, nil)
	if err := o.ReportServing(); err != nil {
		t.Fatal(err)
	}
	older.wantState(Serving)
	if !o.HandBack(t.Context()) {
		t.Error("the older agent did not take everything back")
	}
	older.wantState(Alone)
	o.Close()

	again := newer.join(older, nil, nil)
	older.fail.Store(true)
	if again.HandBack(t.Context()) {
		t.Error("the older agent reported that it serves, although it could not take the rules back")
	}
	older.fail.Store(false)
	older.session.MarkStopping()
	if again.HandBack(t.Context()) {
		t.Error("an agent that stops took something back")
	}
}

// TestUnauthenticated: a process that does not know the secret receives nothing, and is not joined.
func TestUnauthenticated(t *testing.T) {
	probes := free(t)
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	older.serve(probes)
	stranger, err := net.DialUnix("unixpacket", nil, address(older.session.Secret())) // any process can list the names of sockets
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	for _, hello := range []message{
		{Proof: proof("wrong", roleNewer), Listeners: []listenerSpec{{Address: probes}}},
	} {
		if err := send(stranger, hello); err != nil {
			t.Fatal(err)
		}
		_ = stranger.SetReadDeadline(time.Now().Add(testTimeout))
		if m, sockets, err := receive(stranger); err == nil || len(sockets) > 0 {
			t.Errorf("got %+v and %d sockets", m, len(sockets))
		}
	}
	newer.join(older, []string{probes}, nil) // which is still possible

	// A process that knows only the address has taken it after the agent exited.
	secret := "GONE"
	impostor, err := net.ListenUnix("unixpacket", address(secret))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = impostor.Close() }()
	go func() {
		c, err := impostor.AcceptUnix()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		hello, _, _ := receive(c)
		_ = send(c, message{Proof: hello.Proof}) // the only proof that it has seen
		_, _, _ = receive(c)
	}()
	if _, err := newer.session.Join(t.Context(), secret, []string{probes}, nil); err == nil {
		t.Error("joined a process that does not know the secret")
	}
	if _, err := newer.session.Join(t.Context(), "MISSING", nil, nil); err == nil {
		t.Error("joined although no agent listens")
	}
}

// TestThirdWaits: a third agent waits until the second one has exited.
func TestThirdWaits(t *testing.T) {
	older, second, third := newAgent(t, "older"), newAgent(t, "second"), newAgent(t, "third")
	o := second.join(older, nil, nil)
	joined := make(chan error)
	go func() {
		_, err := third.session.Join(t.Context(), older.session.Secret(), nil, nil)
		joined <- err
	}()
	older.wantState(Starting)
	o.Close()
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

func TestListenerPaused(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(raw.(*net.TCPListener))
	l.pause()
	l.pause()
	accepted := make(chan error)
	go func() { _, err := l.Accept(); accepted <- err }()
	c, err := net.Dial("tcp", l.Addr().String()) // it waits in the socket
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	select {
	case err := <-accepted:
		t.Fatalf("accepted while paused: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l.resume()
	l.resume()
	if err := <-accepted; err != nil {
		t.Errorf("resumed: %v", err)
	}
	l.pause()
	go func() { _, err := l.Accept(); accepted <- err }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while paused: %v", err)
	}
}

// TestUnixSocket: a Unix socket is handed over like the others, and its file stays when the older
// agent exits.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "host.sock")
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	l := older.serve(path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info, err)
	}
	o := newer.join(older, nil, []string{path})
	wantAnswers(t, path, "older")
	newer.serve(path)
	if err := o.ReportServing(); err != nil {
		t.Fatal(err)
	}
	older.wantState(Serving)
	older.stop()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantAnswers(t, path, "newer")
	if names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(names) != 1 {
		t.Errorf("left over: %v, %v", names, err)
	}
}

// TestUnixSocketReplaced: the socket of an agent that has exited is replaced, and no other file.
func TestUnixSocketReplaced(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "host.sock")
	exited := newAgent(t, "exited")
	if err := exited.serve(path).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("without an agent: %v, want connection refused", err)
	}
	newAgent(t, "next").serve(path)
	wantAnswers(t, path, "next")

	other := filepath.Join(folder, "file")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := exited.session.Listen(t.Context(), "unix", other); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("in place of a file: %v", err)
	}
	if text, err := os.ReadFile(other); err != nil || string(text) != "mine" {
		t.Errorf("the file was changed: %q, %v", text, err)
	}
}

// TestItems: a newer agent gets what the older one offers, as far as it is within the bounds.
func TestItems(t *testing.T) {
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	older.session.Offer(func() [][]byte {
		items := [][]byte{[]byte("one"), nil, bytes.Repeat([]byte("x"), MaxItem+1), bytes.Repeat([]byte("y"), MaxItem)}
		for range MaxItems {
			items = append(items, []byte("more"))
		}
		return items
	})
	o, err := newer.session.Join(t.Context(), older.session.Secret(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	got := newer.session.Received()
	if len(got) != MaxItems || string(got[0]) != "one" || len(got[1]) != MaxItem || string(got[2]) != "more" {
		t.Errorf("%d items", len(got))
	}
	if again := newer.session.Received(); again != nil {
		t.Errorf("%d items again", len(again))
	}
	if err := o.ReportServing(); err != nil {
		t.Error(err)
	}
}

// TestSilent: connections that say nothing do not keep a newer agent out.
func TestSilent(t *testing.T) {
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	for range maxGreeting / 2 {
		c, err := net.DialUnix("unixpacket", nil, address(older.session.Secret()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	began := time.Now()
	o, err := newer.session.Join(t.Context(), older.session.Secret(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	if took := time.Since(began); took >= helloTimeout {
		t.Errorf("took %v: it waited for the others", took)
	}
}
