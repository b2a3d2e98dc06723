// The holder's end: it answers the calls of its agent.

package privileged

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/hook/protocol"
)

// Server is a holder. What it does on the node goes on while its agent is restarted: rules and
// programs stay, and connections of pods wait.
type Server struct {
	local    *Local
	sockets  string // path
	listener *protocol.Listener
	log      logr.Logger

	mu      sync.Mutex
	open    int                // calls
	none    chan struct{}      // closed when none is open any more
	kept    bool               // an agent has had the redirect kept
	keeping context.CancelFunc // ends the call that keeps the redirect
	counts  counts
	capture *capture // nil if none has begun

	turn sync.Mutex // held while a capture begins or ends, which may take a while
}

// maxCalls bounds the open calls. An agent has four at most.
const maxCalls = 16

// NewServer returns a holder whose agents reach it in a folder, which is made. Besides root's, the
// agents of one user may.
func NewServer(ctx context.Context, o Options, folder string, user uint32, log logr.Logger) (*Server, error) {
	local, err := NewLocal(o, 1, "", log) // each request names the agent's port
	if err != nil {
		return nil, err
	}
	local.users = []uint32{user}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the holder's folder: %w", err)
	}
	listener, err := protocol.Listen(ctx, filepath.Join(folder, callsName), user)
	if err != nil {
		return nil, err
	}
	s := &Server{
		local: local, sockets: filepath.Join(folder, socketsName), listener: listener, log: log, none: make(chan struct{}),
	}
	local.CountTo(&s.counts)
	return s, nil
}

// stopTimeout is how long a holder that is stopped waits for its agent, which drains connections.
// Kubernetes kills both after 30 s.
const stopTimeout = 29 * time.Second

// Run answers calls until ctx ends, and until the agent has gone then, too.
func (s *Server) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, work := errgroup.WithContext(work)
	group.Go(func() error { return s.accept(work, group) })
	select {
	case <-work.Done():
	case <-ctx.Done():
		s.awaitAgent()
	}
	stop()
	_ = s.listener.Close()
	defer s.endCapturing()
	return group.Wait()
}

// awaitAgent waits until no call is open. An agent that drains connections may still make some.
func (s *Server) awaitAgent() {
	s.mu.Lock()
	open, none := s.open, s.none
	s.mu.Unlock()
	if open == 0 {
		return
	}
	limit := time.NewTimer(stopTimeout)
	defer limit.Stop()
	select {
	case <-none:
	case <-limit.C:
	}
}

// acceptPause is the pause after a failure, such as too many open files.
const acceptPause = 100 * time.Millisecond

func (s *Server) accept(ctx context.Context, group *errgroup.Group) error {
	for {
		conn, err := s.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case err == nil:
			s.begin(ctx, group, conn)
			continue
		case errors.Is(err, protocol.ErrPeer):
			s.log.Info("rejected a connection that is no agent's", "reason", err.Error())
			continue
		default:
			s.log.Error(err, "cannot accept calls of the agent, retrying")
		}
		select {
		case <-ctx.Done():
		case <-time.After(acceptPause):
		}
	}
}

// begin answers a call, unless too many are open.
func (s *Server) begin(ctx context.Context, group *errgroup.Group, conn *protocol.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == maxCalls {
		_ = conn.Close()
		return
	}
	s.open++
	group.Go(func() error {
		defer s.ended()
		s.serve(ctx, conn)
		return nil
	})
}

func (s *Server) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open--; s.open == 0 {
		close(s.none)
		s.none = make(chan struct{})
	}
}

// requestTimeout bounds the wait for a request.
const requestTimeout = 5 * time.Second

// serve answers one call.
func (s *Server) serve(ctx context.Context, conn *protocol.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	var r request
	if err := conn.ReceiveValue(&r, requestTimeout); err != nil {
		s.log.V(1).Info("a call without a request", "reason", err.Error())
		return
	}
	go func() { // the agent gives up, or is gone
		conn.WaitEnd()
		cancel()
	}()
	c := &call{conn: conn}
	last := s.answer(ctx, r, c)
	if last.Last = true; ctx.Err() == nil {
		c.send(last)
	}
}

// call is an open call. Results may be sent concurrently.
type call struct {
	mu   sync.Mutex
	conn *protocol.Conn
}

// send sends a result, and reports whether it was sent. An agent that is gone ends the call by
// itself.
func (c *call) send(r result) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.SendValue(r) == nil
}

// answer does what a request wants, and returns the last result.
func (s *Server) answer(ctx context.Context, r request, c *call) result {
	switch r.Act {
	case actPing:
		s.turn.Lock() // a holder in which this takes for ever is ill
		defer s.turn.Unlock()
		return result{}
	case actOwner, actTakeBack, actKeep:
		if err := s.local.redirect.Lead(r.Target); err != nil {
			return failed(err)
		}
		return s.answerRedirect(ctx, r, c)
	case actCapture, actRetire, actRelease, actEnd:
		return s.answerCapture(ctx, r, c)
	case actProbe:
		return result{Probed: s.local.Probe(ctx, r.Question)}
	}
	return result{Error: fmt.Sprintf("unknown request %q: do agent and holder have the same version?", r.Act)}
}

// answerRedirect answers what is about the redirect.
func (s *Server) answerRedirect(ctx context.Context, r request, c *call) result {
	switch r.Act {
	case actTakeBack:
		return failed(s.local.redirect.Ensure(ctx))
	case actKeep:
		s.keep(ctx, c)
		return result{Error: "another call of the agent keeps the redirect"}
	}
	secret, at, found, err := s.local.Owner(ctx)
	last := failed(err)
	last.Secret, last.At, last.Found = secret, at, found
	return last
}

// answerCapture answers what is about the capture inside pods.
func (s *Server) answerCapture(ctx context.Context, r request, c *call) result {
	switch r.Act {
	case actCapture:
		return s.captureFor(ctx, r.PassAbsent, c)
	case actRetire:
		return failed(s.local.Retire(ctx))
	case actRelease:
		s.endCapturing()
		return failed(s.local.Release(ctx))
	}
	if s.local.options.Way != CaptureWire {
		return result{Error: "this holder captures (--capture), and its agent does not: start both with the same flags"}
	}
	found, err := s.local.EndCapture(ctx)
	last := failed(err)
	last.Found = found
	return last
}

// keep keeps the redirect in place until ctx ends, or the next call that does.
func (s *Server) keep(ctx context.Context, c *call) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.keeping != nil {
		s.keeping()
	}
	s.kept, s.keeping = true, cancel
	s.mu.Unlock()
	s.local.KeepRedirect(ctx, func(err error) {
		r := failed(err)
		r.Set, r.Repaired = s.counts.take()
		if !c.send(r) {
			s.counts.add(r.Set, r.Repaired)
		}
	})
}

// counts counts writes of the redirect until a result carries them to the agent.
type counts struct {
	mu            sync.Mutex
	set, repaired int
}

// RedirectSet implements redirect.Counts.
func (c *counts) RedirectSet() { c.add(1, 0) }

// RedirectRepaired implements redirect.Counts.
func (c *counts) RedirectRepaired() { c.add(0, 1) }

func (c *counts) add(set, repaired int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set += set
	c.repaired += repaired
}

func (c *counts) take() (set, repaired int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set, repaired = c.set, c.repaired
	c.set, c.repaired = 0, 0
	return set, repaired
}
