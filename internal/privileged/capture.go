// The capture inside pods that a holder runs: it outlives the calls of agents, so that connections
// of pods wait while an agent is restarted.

package privileged

import (
	"context"
	"errors"
	"sync"
)

// capture is a capture inside pods, which outlives the calls of agents.
type capture struct {
	passAbsent bool
	cancel     context.CancelFunc
	done       chan struct{}
	err        error // once done is closed

	mu    sync.Mutex
	last  *result // of the last check
	calls map[*call]bool
}

// captureFor reports what the running capture finds until ctx ends or the capture does.
func (s *Server) captureFor(ctx context.Context, passAbsent bool, c *call) result {
	running := s.startCapture(ctx, passAbsent, c)
	select {
	case <-running.done:
		running.remove(c)
		return failed(running.err)
	case <-ctx.Done():
	}
	if s.leave(running, c) {
		// The agent has gone before it served pods: an older one goes on serving them.
		s.endCapturing()
		if s.local.options.Way == CapturePrefer {
			if err := s.local.Release(ctx); err != nil {
				s.log.Error(err, "cannot remove what captures requests inside pods: some pods are refused; run nmi --cleanup on the node")
			}
		}
	}
	return result{}
}

// leave ends a call's part in a capture. It reports whether the capture is of no use any more: no
// agent has ever served pods by it, and none is there.
func (s *Server) leave(running *capture, c *call) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	left := running.remove(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	return left == 0 && !s.kept && s.capture == running
}

// startCapture lets a call take part in the running capture, or begins one.
func (s *Server) startCapture(ctx context.Context, passAbsent bool, by *call) *capture {
	s.turn.Lock()
	defer s.turn.Unlock()
	if c := s.running(); c != nil && c.passAbsent == passAbsent {
		c.add(by)
		return c
	}
	s.end()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &capture{passAbsent: passAbsent, cancel: cancel, done: make(chan struct{}), calls: map[*call]bool{by: true}}
	s.mu.Lock()
	s.capture = c
	s.mu.Unlock()
	go func() {
		defer close(c.done)
		c.err = s.local.Capture(ctx, s.sockets, passAbsent, c.report)
		if c.err == nil {
			c.err = errors.New("the holder no longer captures")
		}
	}()
	return c
}

// running returns the capture, nil if there is none that runs.
func (s *Server) running() *capture {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.capture == nil {
		return nil
	}
	select {
	case <-s.capture.done:
		return nil
	default:
		return s.capture
	}
}

// endCapturing ends the running capture, if there is one.
func (s *Server) endCapturing() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.end()
}

// end is endCapturing for callers that hold turn.
func (s *Server) end() {
	s.mu.Lock()
	c := s.capture
	s.capture = nil
	s.mu.Unlock()
	if c != nil {
		c.end()
	}
}

// end ends the capture and waits for it.
func (c *capture) end() {
	c.cancel()
	<-c.done
}

// report sends the result of a check to all calls.
func (c *capture) report(err error) {
	r := failed(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = &r
	for call := range c.calls {
		call.send(r)
	}
}

func (c *capture) add(to *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[to] = true
	if c.last != nil {
		to.send(*c.last)
	}
}

// remove returns how many calls are left.
func (c *capture) remove(to *call) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, to)
	return len(c.calls)
}
