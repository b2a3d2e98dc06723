// The source of managed identities' tokens: the metadata service of this node.

package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// Limiter lets calls to a source begin, some at a time. Its error, unless ctx has
// ended, means that the caller has too many waiting; one with the method
// RetryAfter() time.Duration, that everybody has to stay away for so long.
type Limiter interface {
	Acquire(ctx context.Context, caller string) (release func(), err error)
	// StayAway lets nothing begin for a while. Zero and less change nothing.
	StayAway(d time.Duration)
}

// Meter takes the duration of a call to the source, or its error.
type Meter interface {
	SourceOperation(operation string, took time.Duration, err error)
}

// IMDS asks the metadata service.
//
// Its documentation asks clients to try again after 404, 410, 429 and 5xx, with
// growing pauses; so it does, within the time its caller gives. It does so also
// when the service does not know the identity yet: the assignment has just
// been reported, and the node learns of it a little later. When the service
// says how long to stay away, everybody stays away that long.
type IMDS struct {
	base   string
	client *http.Client
	cfg    IMDSConfig
}

// IMDSConfig is what an IMDS source needs.
type IMDSConfig struct {
	// Address is host:port of the service.
	Address string
	Limiter Limiter
	Meter   Meter
	// Operation is what its calls are called in the metrics.
	Operation string
	// UserAgent is how the agent names itself to the service.
	UserAgent string
	// ClusterIdentity reports whether one of the cluster's own identities has this client ID or
	// this resource ID. They are in lower case, and either may be empty. Nil: pods may have all of
	// them, and no token is marked.
	ClusterIdentity func(clientID, resourceID string) bool
}

const (
	// tokenAPIVersion is the one that all clients use.
	tokenAPIVersion = "2018-02-01"
	// firstCall bounds the first call. The service answers in milliseconds from
	// its cache and in a second or two when it must ask Entra ID; a call that
	// takes longer was probably lost. If the second is as slow, the service is,
	// and it gets what time is left.
	firstCall = 5 * time.Second
	// firstPause doubles with every attempt: 0.2, 0.4 … 3.2 s, 6.2 s in all.
	firstPause  = 200 * time.Millisecond
	maxAttempts = 6
	// maxReply is far beyond any token; one of Azure's has some 2 kB.
	maxReply = 256 << 10
	// maxRest is the longest pause asked for by the service that a request sits
	// out; for a longer one the client is sent away, to come back by itself.
	maxRest = 2 * time.Second
	// maxAway bounds how long one answer may keep us away.
	maxAway = 2 * time.Minute
)

// NewIMDS returns the source behind an address.
func NewIMDS(cfg IMDSConfig) *IMDS {
	return &IMDS{
		base: "http://" + cfg.Address, cfg: cfg,
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:               nil, // never: the service answers to the machine itself
				DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 5,
				IdleConnTimeout:     90 * time.Second,
				DisableCompression:  true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Token asks for a token until there is one, it is clear that there is none, or
// ctx ends.
func (s *IMDS) Token(ctx context.Context, r Request) (*Token, error) {
	var last *Failure
	pause := firstPause
	for attempt := range maxAttempts {
		t, f, err := s.attempt(ctx, &r, attempt == 0)
		if err != nil {
			if last != nil {
				return nil, last
			}
			return nil, err
		}
		if f == nil {
			return t, nil
		}
		last = &f.Failure
		if !f.passing || attempt == maxAttempts-1 || f.RetryAfter > maxRest || !rest(ctx, max(pause, f.RetryAfter)) {
			break
		}
		pause *= 2
	}
	return nil, last
}

// problem is a failure, whether it may pass by itself, and whether it is the
// proof of the identity that was rejected.
type problem struct {
	Failure
	passing, rejected bool
}

// attempt is one call. The error is ErrBusy, or a *Failure when ctx ended while
// waiting for a turn.
func (s *IMDS) attempt(ctx context.Context, r *Request, first bool) (*Token, *problem, error) {
	release, err := r.acquire(ctx, s.cfg.Limiter)
	if err != nil {
		return nil, nil, noTurn(ctx, err)
	}
	defer release()
	if first {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, firstCall)
		defer cancel()
	}
	began := time.Now()
	t, p := s.call(ctx, *r)
	var outcome error
	if p != nil {
		outcome = &p.Failure
	}
	s.cfg.Meter.SourceOperation(s.cfg.Operation, time.Since(began), outcome)
	return t, p, nil
}

// noTurn is why a call could not begin.
func noTurn(ctx context.Context, err error) error {
	var away interface{ RetryAfter() time.Duration }
	switch {
	case ctx.Err() != nil:
		return &Failure{
			Status: http.StatusInternalServerError, Code: "metadata_service_busy", Cause: err, queued: true,
			Message: "too many token requests of this node wait for the metadata service: try again",
		}
	case errors.As(err, &away):
		return tooMany(away.RetryAfter())
	default:
		return ErrBusy
	}
}

func tooMany(wait time.Duration) *Failure {
	return &Failure{
		Status: http.StatusTooManyRequests, Code: "too_many_requests", RetryAfter: wait,
		Message: "the metadata service of this node has too many requests: try again later",
	}
}

func (s *IMDS) call(ctx context.Context, r Request) (*Token, *problem) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/metadata/identity/oauth2/token?"+query(r), nil)
	if err != nil {
		return nil, trouble("the metadata service cannot be asked", err)
	}
	req.Header.Set("Metadata", "true")
	req.Header.Set("User-Agent", s.cfg.UserAgent)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, trouble("the metadata service of this node does not answer: try again", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, trouble("the metadata service of this node broke off its answer: try again", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, s.refused(resp, body, r)
	}
	t, err := parseReply(body, time.Now())
	if err != nil {
		return nil, trouble("the metadata service's answer makes no sense: try again", err)
	}
	if p := s.check(t, r.Identity); p != nil {
		return nil, p
	}
	return t, nil
}

// check refuses a token that is not for the identity decided on, and marks one of the cluster's
// own identities.
func (s *IMDS) check(t *Token, id *v1.AzureIdentity) *problem {
	got := subjectOf(t)
	if err := got.mismatch(id.Spec); err != nil {
		return otherIdentity(id, "the metadata service", err)
	}
	if known := s.cfg.ClusterIdentity; known != nil {
		// Asked when the token is handed out: the kubelet's identity may become known later.
		t.cluster = got.clusterCheck(&id.Spec, known)
	}
	return nil
}

// query names the identity by its resource ID, or by its client ID when it has none, as in
// managed mode. The resource ID is what MIC assigned and what policies decide about; the client
// ID is only a claim of the AzureIdentity's author. The resource is passed on byte for byte.
func query(r Request) string {
	q := url.Values{"api-version": {tokenAPIVersion}, "resource": {r.Resource}}
	if id := resourceIDOf(&r.Identity.Spec); id != "" {
		q.Set("msi_res_id", id)
	} else {
		q.Set("client_id", r.Identity.Spec.ClientID)
	}
	if r.Revoked != "" {
		q.Set("token_sha256_to_refresh", r.Revoked) // or its own cache may give the same token again
	}
	return q.Encode()
}

// resourceIDOf returns the identity's resource ID. Managed mode in v1.8.17 never looked at that
// field beside a client ID: what cannot be a resource ID counts as absent.
func resourceIDOf(spec *v1.AzureIdentitySpec) string {
	if !strings.HasPrefix(spec.ResourceID, "/") {
		return ""
	}
	return spec.ResourceID
}

// withoutURL drops the URL that http puts before its errors: it names the
// identity in full.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func trouble(message string, cause error) *problem {
	return &problem{passing: true, Failure: Failure{Status: http.StatusInternalServerError, Code: "metadata_service_trouble", Message: message, Cause: cause}}
}

// refused makes a failure of an answer that is not 200.
func (s *IMDS) refused(resp *http.Response, body []byte, r Request) *problem {
	code, text := errorText(body)
	text = shortened(text, r.Identity.Spec.ClientID)
	said := fmt.Sprintf("the metadata service answered %d %s %s", resp.StatusCode, code, text)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		wait := retryAfter(resp.Header, time.Now())
		s.cfg.Limiter.StayAway(wait)
		return &problem{passing: true, Failure: *tooMany(wait)}
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone, resp.StatusCode >= 500:
		return trouble("the metadata service of this node has trouble: try again", errors.New(said))
	case resp.StatusCode == http.StatusBadRequest && strings.Contains(ascii.ToLower(text), "identity not found"):
		return &problem{passing: true, Failure: Failure{
			Status: http.StatusNotFound, Code: "identity_not_on_node", Cause: errors.New(said),
			Message: "this node does not have the identity " + name(r.Identity) +
				" (yet): check that its resourceID and clientID are right and that it is assigned to the node's VM or scale set",
		}}
	case code == unreadable, resp.StatusCode == http.StatusRequestTimeout:
		// Not the service's own words, or no final ones: clients would remember a
		// 400 for as long as they run.
		return trouble("the metadata service's answer makes no sense: try again", errors.New(said))
	case resp.StatusCode >= 400:
		// A wrong resource, most likely: the service says it best.
		return &problem{Failure: Failure{Status: resp.StatusCode, Code: code, Message: text}}
	default:
		return trouble("the metadata service's answer makes no sense: try again", errors.New(said))
	}
}

func name(id *v1.AzureIdentity) string { return id.Namespace + "/" + id.Name }

// unreadable is the code of an error that does not look like the service's.
const unreadable = "unreadable"

// shortened cuts a client id in a text to its first 8 characters: the text goes
// to logs.
func shortened(text, clientID string) string {
	const keep = 8
	if len(clientID) <= keep {
		return text
	}
	return regexp.MustCompile("(?i)"+regexp.QuoteMeta(clientID)).ReplaceAllLiteralString(text, clientID[:keep]+"…")
}

// errorText reads an error's body, bounded for messages.
func errorText(body []byte) (code, text string) {
	var e struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		return unreadable, "(no readable error)"
	}
	return clip(e.Error, 100), clip(e.Description, 1000)
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// retryAfter reads the header, in seconds or as a date; zero when there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return min(max(time.Duration(seconds)*time.Second, 0), maxAway)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), maxAway)
	}
	return 0
}

// rest waits, unless ctx ends before: then it returns false at once.
func rest(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
