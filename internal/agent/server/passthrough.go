// Requests that are passed on to the real metadata service.

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/reason"
)

// upstream is the real metadata service.
type upstream struct {
	base   string
	client *http.Client
}

const (
	// upstreamTime bounds one request. The service answers in milliseconds.
	upstreamTime = 10 * time.Second
	// maxUpstream bounds an answer. The longest, an instance with hundreds of tags and disks, has
	// some tens of kilobytes.
	maxUpstream = 512 << 10
)

func newUpstream(address string) *upstream {
	return &upstream{
		base: "http://" + address,
		client: &http.Client{
			Timeout: upstreamTime,
			Transport: &http.Transport{
				Proxy:               nil, // the service is reachable only from the machine itself
				DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 5,
				IdleConnTimeout:     90 * time.Second,
				DisableCompression:  true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// passOn passes a request on, unless the configuration keeps its path from pods.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, route imds.Route, res *result) {
	switch {
	case route.Instance && s.cfg.BlockInstance:
		res.refuse(reason.InstanceBlocked.Refuse("the metadata of the machine is not for pods: the node agent runs with block-instance-metadata"))
		res.bodyless = route.PlainText // clients take any body as a value
		return
	case route.Attested && s.cfg.BlockAttested:
		res.refuse(reason.AttestedBlocked.Refuse("the machine's attested document is not for pods: the node agent runs with block-attested-document"))
		return
	case route.UserData && !s.cfg.AllowUserData:
		res.refuse(reason.UserDataBlocked.Refuse("the user data of the machine is not for pods: an operator can run the node agent with block-user-data=false"))
		return
	}
	query, refusal := imds.PassOnQuery(r.URL.RawQuery)
	if refusal != nil {
		res.refuse(refusal)
		return
	}
	p := passage{path: route.Path, query: query, limiter: s.cfg.OtherLimiter, caller: s.account(res.address)}
	if route.Instance && !route.Attested && !s.cfg.AllowUserData {
		p.edit = (*answer).dropUserData // parents of userData have it in their JSON
	}
	s.forward(w, r, p, res)
}

// account returns the caller that the limiter counts a request for: the pod, or the address while
// its pod is not known. All such addresses share one turn.
func (s *Server) account(from attest.Origin) string {
	if caller, ok := s.known(from); ok {
		return caller.String()
	}
	return "/" + from.String()
}

// plainToken passes on the token request of an excepted pod, with all its parameters.
func (s *Server) plainToken(w http.ResponseWriter, r *http.Request, res *result) {
	res.reason = reason.Excepted
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		res.refuse(reason.BadQuery.Refuse("the query cannot be read"))
		return
	}
	s.forward(w, r, passage{
		path: imds.TokenPath, query: query.Encode(), limiter: s.cfg.TokenLimiter, caller: res.caller.Namespace + "/" + res.caller.Name,
	}, res)
}

// passage is a request to the real service.
type passage struct {
	path, query string
	limiter     Limiter
	caller      string // for the limiter
	// edit changes an answer with status 200. If it fails, the request is refused. It may be nil.
	edit func(*answer) error
}

// forward sends a request to the real service and writes its answer.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, p passage, res *result) {
	release, err := p.limiter.Acquire(r.Context(), p.caller)
	if err != nil {
		if r.Context().Err() != nil {
			res.gone()
			return
		}
		res.noTurn(err)
		return
	}
	defer release()
	a, err := s.upstream.get(r.Context(), p.path, p.query, r.Header)
	if err == nil && a.status == http.StatusOK && p.edit != nil {
		err = p.edit(a)
	}
	switch {
	case err == nil && s.callerGone(r, res.began):
		res.callerGone(w)
	case err == nil:
		if a.status == http.StatusTooManyRequests {
			p.limiter.StayAway(retryAfter(a.header))
		}
		release() // the client may be slow to read
		a.writeTo(w)
		res.status = a.status
	case r.Context().Err() != nil:
		res.gone()
	default:
		res.refuse(reason.UpstreamFailed.Refuse("the metadata service of this node does not answer: try again").Because(err))
		s.cfg.Log.V(1).Info("the metadata service does not answer", "path", p.path, "reason", err.Error())
	}
}

// noTurn refuses a request that the limiter refused.
func (res *result) noTurn(err error) {
	var away interface{ RetryAfter() time.Duration }
	if errors.As(err, &away) {
		res.refuse(reason.UpstreamThrottled.Refuse("the metadata service of this node has too many requests: try again later").After(away.RetryAfter()))
		return
	}
	res.refuse(reason.Busy.Refuse("too many requests of this pod or its namespace wait for the metadata service: try again later").After(time.Second))
}

// retryAfter returns the time in an answer's Retry-After header, 0 if there is none.
func retryAfter(h http.Header) time.Duration {
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); err == nil {
		return time.Duration(min(seconds, 3600)) * time.Second
	}
	return 0
}

// answer is an answer of the real service.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// get sends a request to the real service. It forwards only the headers that the service reads, and
// never X-Forwarded-For.
func (u *upstream) get(ctx context.Context, path, query string, from http.Header) (*answer, error) {
	target := u.base + path
	if len(query) > 0 {
		target += "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fmt.Errorf("call the metadata service: %w", err)
	}
	req.Header.Set("User-Agent", build.UserAgent("nmi")) // unless the client names itself
	copyHeaders(req.Header, from, "Accept", "User-Agent", "X-Ms-Client-Request-Id", "Return-Client-Request-Id")
	req.Header.Set(imds.MetadataHeader, "true")
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call the metadata service: %w", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxUpstream+1))
	if err != nil {
		return nil, fmt.Errorf("read the metadata service's answer: %w", err)
	}
	if len(body) > maxUpstream {
		return nil, errors.New("the metadata service's answer is too long")
	}
	a := &answer{status: resp.StatusCode, header: http.Header{}, body: body}
	// Not Server, from which MSAL would conclude that IMDS supports its newer protocol.
	copyHeaders(a.header, resp.Header, "Content-Type", "Retry-After", "X-Ms-Request-Id", "X-Ms-Client-Request-Id")
	return a, nil
}

// dropUserData removes userData from a JSON answer. Plain text has only single values, which are
// refused by their path, and lists of names.
func (a *answer) dropUserData() error {
	if !strings.Contains(ascii.ToLower(a.header.Get("Content-Type")), "json") && !json.Valid(a.body) {
		return nil
	}
	body, err := imds.WithoutUserData(a.body)
	if err != nil {
		return err
	}
	a.body = body
	return nil
}

func (a *answer) writeTo(w http.ResponseWriter) {
	h := w.Header()
	copyHeaders(h, a.header, "Content-Type", "Retry-After", "X-Ms-Request-Id", "X-Ms-Client-Request-Id")
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	if h.Get("Content-Type") == "" {
		h["Content-Type"] = nil // keeps net/http from guessing one
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // an error means that the client disconnected
}

func copyHeaders(to, from http.Header, names ...string) {
	for _, name := range names {
		if values := from[name]; len(values) > 0 {
			to[name] = values
		}
	}
}

// withoutURL removes the URL from an error of net/http. Its query may name an identity in full.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
