// Two agents in one process. The line is a Unix socket, so no network is needed.

package handover

import (
	"bufio"
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

const atMost = 20 * time.Second

// agent is one generation: a line, and a listener that answers with its name.
type agent struct {
	t     *testing.T
	name  string
	line  *Line
	end   context.CancelFunc
	ended chan struct{}
	back  atomic.Int64 // how often it took the rules back
	fail  atomic.Bool  // taking back fails
}

func newAgent(t *testing.T, name string) *agent {
	a := &agent{t: t, name: name, line: New(logr.Discard()), ended: make(chan struct{})}
	if err := a.line.Open(); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, a.end = context.WithCancel(t.Context())
	go func() {
		defer close(a.ended)
		a.line.Run(ctx, func(context.Context) error {
			a.back.Add(1)
			if a.fail.Load() {
				return errors.New("broken")
			}
			return nil
		})
	}()
	t.Cleanup(func() { a.end(); <-a.ended })
	return a
}

// serve answers at an address with the agent's name, until the agent ends.
func (a *agent) serve(address string) net.Listener {
	a.t.Helper()
	l, err := a.line.Listen(a.t.Context(), networkOf(address), address)
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

// networkOf is the network of an address: a path is a Unix socket's.
func networkOf(address string) string {
	if filepath.IsAbs(address) {
		return "unix"
	}
	return "tcp"
}

// free is an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// who answers at an address.
func who(t *testing.T, address string) string {
	t.Helper()
	c, err := net.DialTimeout(networkOf(address), address, atMost)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(atMost))
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return name[:len(name)-1]
}

func (a *agent) wantState(want State) {
	a.t.Helper()
	late := time.After(atMost)
	for {
		state, changed := a.line.State()
		if state == want {
			return
		}
		select {
		case <-changed:
		case <-late:
			a.t.Fatalf("%s: state %d, want %d", a.name, state, want)
		}
	}
}

func (a *agent) join(older *agent, now, later []string) *Older {
	a.t.Helper()
	o, err := a.line.Join(a.t.Context(), older.line.Word(), now, later)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(o.Close)
	return o
}

func wantAnswers(t *testing.T, address, name string) {
	t.Helper()
	for range 20 { // the kernel must have no choice
		if got := who(t, address); got != name {
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
	newer.serve(own) // the older one does not have it
	wantAnswers(t, probes, "newer")
	wantAnswers(t, own, "newer")
	wantAnswers(t, host, "older")

	newer.serve(host)
	if err := o.Serving(); err != nil {
		t.Fatal(err)
	}
	older.wantState(Serving)
	wantAnswers(t, host, "newer")

	older.end()
	<-o.Gone()
	wantAnswers(t, probes, "newer")
	wantAnswers(t, host, "newer")
	if older.back.Load() != 0 {
		t.Error("an agent that ends took the rules back")
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
				if err := o.Serving(); err != nil {
					t.Fatal(err)
				}
				older.wantState(Serving)
			}
			_ = l.Close()
			o.Close()
			older.wantState(Alone)
			wantAnswers(t, probes, "older")
			wantAnswers(t, host, "older")

			third := newAgent(t, "third") // the next one is as welcome
			third.join(older, []string{probes}, nil)
			third.serve(probes)
			wantAnswers(t, probes, "third")
			if older.back.Load() != 1 {
				t.Errorf("the rules were taken back %d times", older.back.Load())
			}
		})
	}
}

func TestNewerLeaves(t *testing.T) {
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	o := newer.join(older, nil, nil)
	if err := o.Serving(); err != nil {
		t.Fatal(err)
	}
	older.wantState(Serving)
	if !o.Leave(t.Context()) {
		t.Error("the older agent did not take everything back")
	}
	older.wantState(Alone)
	o.Close()

	again := newer.join(older, nil, nil)
	older.fail.Store(true)
	if again.Leave(t.Context()) {
		t.Error("the older agent could not take the rules back, and said it did")
	}
	older.fail.Store(false)
	older.line.Leave()
	if again.Leave(t.Context()) {
		t.Error("an agent that ends took something back")
	}
}

// Whoever does not know the word gets nothing, and gives nothing.
func TestStrangers(t *testing.T) {
	probes := free(t)
	older, newer := newAgent(t, "older"), newAgent(t, "newer")
	older.serve(probes)
	stranger, err := net.DialUnix("unixpacket", nil, address(older.line.Word())) // the names of sockets can be listed
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	for _, hello := range []message{
		{Proof: proof("wrong", roleNewer), Listeners: []wanted{{Address: probes}}},
	} {
		if err := send(stranger, hello); err != nil {
			t.Fatal(err)
		}
		_ = stranger.SetReadDeadline(time.Now().Add(atMost))
		if m, sockets, err := receive(stranger); err == nil || len(sockets) > 0 {
			t.Errorf("got %+v and %d sockets", m, len(sockets))
		}
	}
	newer.join(older, []string{probes}, nil) // and others are served as before

	// In the place of an agent that is gone, somebody who has seen nothing but the name.
	word := "GONE"
	place, err := net.ListenUnix("unixpacket", address(word))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = place.Close() }()
	go func() {
		c, err := place.AcceptUnix()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		hello, _, _ := receive(c)
		_ = send(c, message{Proof: hello.Proof}) // all it knows
		_, _, _ = receive(c)
	}()
	if _, err := newer.line.Join(t.Context(), word, []string{probes}, nil); err == nil {
		t.Error("joined a stranger")
	}
	if _, err := newer.line.Join(t.Context(), "NOBODY", nil, nil); err == nil {
		t.Error("joined nobody")
	}
}

// A third agent waits until the second has ended.
func TestThirdWaits(t *testing.T) {
	older, second, third := newAgent(t, "older"), newAgent(t, "second"), newAgent(t, "third")
	o := second.join(older, nil, nil)
	joined := make(chan error)
	go func() {
		_, err := third.line.Join(t.Context(), older.line.Word(), nil, nil)
		joined <- err
	}()
	older.wantState(Starting)
	o.Close()
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

func TestListenerRests(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(raw.(*net.TCPListener))
	l.rest()
	l.rest()
	accepted := make(chan error)
	go func() { _, err := l.Accept(); accepted <- err }()
	c, err := net.Dial("tcp", l.Addr().String()) // the kernel takes it, and keeps it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	select {
	case err := <-accepted:
		t.Fatalf("accepted while it rests: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l.wake()
	l.wake()
	if err := <-accepted; err != nil {
		t.Errorf("after its rest: %v", err)
	}
	l.rest()
	go func() { _, err := l.Accept(); accepted <- err }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while it rests: %v", err)
	}
}

// TestUnixSocket: a Unix socket is handed over like the others, and its file stays when the older
// agent ends.
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
	if err := o.Serving(); err != nil {
		t.Fatal(err)
	}
	older.wantState(Serving)
	older.end()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantAnswers(t, path, "newer")
	if names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(names) != 1 {
		t.Errorf("left over: %v, %v", names, err)
	}
}

// TestUnixSocketReplaced: the socket of an ended agent is replaced, and no other file.
func TestUnixSocketReplaced(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "host.sock")
	ended := newAgent(t, "ended")
	if err := ended.serve(path).Close(); err != nil {
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
	if _, err := ended.line.Listen(t.Context(), "unix", other); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in its place: %v", err)
	}
	if text, err := os.ReadFile(other); err != nil || string(text) != "mine" {
		t.Errorf("the file was changed: %q, %v", text, err)
	}
}
