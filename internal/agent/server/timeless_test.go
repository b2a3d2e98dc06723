package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/reason"
)

// timeless is a world with pipes instead of a network, for tests with fake time. Its limits are the
// agent's.
type timeless struct {
	*world
	source *sick
	l      *pipes
}

func newTimeless(t *testing.T, change func(*settings)) *timeless {
	w := &timeless{source: &sick{}, l: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}}
	w.world = newWorld(t, func(s *settings) {
		s.server.AttestLimit, s.authorize.ArrivalLimit, s.authorize.BindingLimit = 4*time.Second, 100*time.Second, 8*time.Second
		s.noIMDS = true
		if change != nil {
			change(s)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.server.cfg.Tokens = token.NewCache(ctx, token.CacheConfig{
		Source: source.ByType{v1.UserAssignedMSI: w.source}, Max: 64, MaxPerIdentity: 16, FetchTimeout: 16 * time.Second, StaleAfter: 500 * time.Millisecond,
		Render: func(t *token.Token, r token.Request) (token.Body, error) {
			return imds.NewReply(t.Fields, r.Resource, r.Identity.Spec.ClientID, t.NotBefore, t.ExpiresOn, t.ExtendedOn)
		},
	})
	done := make(chan error, 1)
	go func() {
		done <- connections.Serve(ctx, w.l, attest.NewOrigins(), w.server.ServePod, connections.Limits{Total: 64, PerSource: 64}, quiet())
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		synctest.Wait()
	})
	return w
}

// ask sends a request from an address, and returns the answer and how long it took.
func (w *timeless) ask(ctx context.Context, ip, target string, headers ...string) (reply, time.Duration, error) {
	began := time.Now()
	transport := &http.Transport{
		Proxy: nil,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return w.l.dial(ctx, netip.MustParseAddr(ip))
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://169.254.169.254"+target, nil)
	if err != nil {
		return reply{}, 0, err
	}
	req.Header.Set("Metadata", "true")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Del(headers[i])
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return reply{}, time.Since(began), err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(body), fmt.Sprint(target, headers)}, time.Since(began), err
}

// sick is a source that can be made to fail.
type sick struct {
	mu    sync.Mutex
	err   error // when not nil
	hangs bool
	calls int
}

func (s *sick) fall(err error, hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hangs = err, hangs
}

// Token implements token.Source.
func (s *sick) Token(ctx context.Context, r token.Request) (*token.Token, error) {
	s.mu.Lock()
	s.calls++
	err, hangs := s.err, s.hangs
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, &reason.Refusal{Reason: reason.IMDSTrouble, Message: "does not answer"}
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &token.Token{
		Fields:   map[string]json.RawMessage{"access_token": fmt.Appendf(nil, `"token of %s"`, r.Identity.Name)},
		Obtained: now, NotBefore: now, ExpiresOn: now.Add(time.Hour), ObjectID: objectID(r.Identity.Name),
	}, nil
}

// pipes is a listener without a network.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) dial(ctx context.Context, from netip.Addr) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- pretendConn{theirs, from}:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }
