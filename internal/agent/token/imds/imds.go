// Package imds gets tokens of managed identities from the metadata service of this node.
package imds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Source asks the metadata service.
//
// The documentation of the service asks clients to retry after 404, 410, 429 and 5xx with growing
// pauses. Source does so within the time its caller gives. It also retries while the service does
// not know the identity: the node learns of a new assignment a little later than Azure reports it.
// If the service sends Retry-After, all calls of the node wait that long.
type Source struct {
	cfg    Config
	client *http.Client
}

// Config is the configuration of a Source.
type Config struct {
	source.Calls
	// Address is host:port of the service.
	Address string
	// Transport carries the calls. Nil: HTTP without a proxy.
	Transport http.RoundTripper
	// ClusterIdentity reports whether one of the cluster's own identities has this client ID or
	// this resource ID. They are in lower case, and either may be empty. Nil: pods may have all of
	// them, and no token is marked.
	ClusterIdentity func(clientID, resourceID string) bool
}

const (
	// apiVersion is the one that all clients use.
	apiVersion = "2018-02-01"
	// attempts and firstPause make pauses of 0.2, 0.4 … 3.2 s, 6.2 s in all.
	attempts   = 6
	firstPause = 200 * time.Millisecond
	// maxReply is far more than any token needs. One of Azure's has some 2 kB.
	maxReply = 256 << 10
)

// New returns the source behind an address.
func New(cfg Config) *Source {
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:               nil, // never: the service answers only to the machine itself
			DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 5,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
		}
	}
	return &Source{cfg: cfg, client: &http.Client{
		Transport:     cfg.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Token implements token.Source.
func (s *Source) Token(ctx context.Context, r token.Request) (*token.Token, error) {
	acquire := func(ctx context.Context) (func(), error) {
		release, err := s.cfg.Acquire(ctx, &r)
		if err != nil {
			return nil, noTurn(ctx, err)
		}
		return release, nil
	}
	call := func(ctx context.Context) (*token.Token, error) { return s.call(ctx, r) }
	backoff := source.Backoff{Attempts: attempts, First: firstPause}
	return backoff.Do(ctx, acquire, func(ctx context.Context, first bool) (*token.Token, error) {
		return s.cfg.Measure(ctx, first, call)
	})
}

// noTurn returns why a call could not begin.
func noTurn(ctx context.Context, err error) error {
	var cooldown interface{ RetryAfter() time.Duration }
	switch {
	case ctx.Err() != nil:
		return &reason.Refusal{
			Reason: reason.IMDSBusy, Cause: err,
			Message: "too many token requests of this node wait for the metadata service: try again",
		}
	case errors.As(err, &cooldown):
		return throttled(cooldown.RetryAfter())
	default:
		return token.ErrBusy
	}
}

func throttled(wait time.Duration) error {
	return &reason.Refusal{
		Reason: reason.IMDSThrottled, RetryAfter: wait,
		Message: "the metadata service of this node has too many requests: try again later",
	}
}

func (s *Source) call(ctx context.Context, r token.Request) (*token.Token, error) {
	u := "http://" + s.cfg.Address + "/metadata/identity/oauth2/token?" + query(r)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, trouble("the request to the metadata service is invalid", err)
	}
	req.Header.Set("Metadata", "true")
	req.Header.Set("User-Agent", s.cfg.UserAgent)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, trouble("the metadata service of this node does not answer: try again", source.StripURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, trouble("the metadata service of this node did not complete its response: try again", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, s.refused(resp, body, r)
	}
	t, err := source.ParseReply(body, time.Now())
	if err != nil {
		return nil, invalid(err)
	}
	subject := source.SubjectOf(t)
	if err := subject.Mismatch(r.Identity.Spec); err != nil {
		return nil, source.OtherIdentity(r.Identity, "the metadata service", err)
	}
	if s.cfg.ClusterIdentity != nil {
		t.ClusterEvidence = subject.ClusterEvidence(&r.Identity.Spec, s.cfg.ClusterIdentity)
	}
	return t, nil
}

// query names the identity by its resource ID, or by its client ID if it has none, as in managed
// mode. The resource ID is what MIC assigned and what policies decide about. The client ID is only
// a claim of the AzureIdentity's author. The requested resource is passed on byte for byte.
func query(r token.Request) string {
	q := url.Values{"api-version": {apiVersion}, "resource": {r.Resource}}
	if id := source.ResourceID(&r.Identity.Spec); id != "" {
		q.Set("msi_res_id", id)
	} else {
		q.Set("client_id", r.Identity.Spec.ClientID)
	}
	if r.Revoked != "" {
		q.Set("token_sha256_to_refresh", r.Revoked) // else the service's own cache may return the same token
	}
	return q.Encode()
}

func trouble(message string, cause error) error {
	return &reason.Refusal{
		Reason: reason.IMDSTrouble, Message: message, Cause: cause,
	}
}

func invalid(cause error) error {
	return trouble("the metadata service of this node returned an invalid response: try again", cause)
}

// refused returns the failure for an answer that is not 200.
func (s *Source) refused(resp *http.Response, body []byte, r token.Request) error {
	code, text := readError(body)
	text = source.Shorten(text, r.Identity.Spec.ClientID)
	answered := fmt.Errorf("the metadata service answered %d %s %s", resp.StatusCode, code, text)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		wait := source.RetryAfter(resp.Header, time.Now())
		s.cfg.Limiter.StayAway(wait)
		return throttled(wait)
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone, resp.StatusCode >= 500:
		return trouble("the metadata service of this node has trouble: try again", answered)
	case resp.StatusCode == http.StatusBadRequest && strings.Contains(ascii.ToLower(text), "identity not found"):
		return &reason.Refusal{
			Reason: reason.NotOnNode, Cause: answered,
			Message: "this node does not have the identity " + source.Name(r.Identity) +
				" (yet): check that its resourceID and clientID are right " +
				"and that it is assigned to the node's VM or scale set",
		}
	case code == unreadable, resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode < 400:
		// The answer may not be the service's own. A 400 would be final: clients remember it for as
		// long as they run.
		return invalid(answered)
	default:
		// Probably a resource that does not exist. The service's own words are the best.
		return &reason.Refusal{
			Reason: reason.IMDSRefused, Message: text, Relayed: reason.Answer{Status: resp.StatusCode, OAuth: code},
		}
	}
}

// unreadable is the code of an error that is not in the service's format.
const unreadable = "unreadable"

// readError reads an error's body and bounds it for messages.
func readError(body []byte) (code, text string) {
	var e struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		return unreadable, "(no readable error)"
	}
	return source.Clip(e.Error, 100), source.Clip(e.Description, 1000)
}
