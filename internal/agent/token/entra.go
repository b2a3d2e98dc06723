// The sources of identities that are no managed ones: one POST to Entra ID, or to
// ADFS, with a proof of who the identity is.

package token

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// Entra mints tokens for identities whose proof comes from a prover: a secret, a
// certificate, or a federated token. It asks the token endpoint directly: nothing
// is discovered, so nothing but that endpoint can send it elsewhere.
//
// Each attempt of a request reads the proof anew and forgets it; see mint.
type Entra struct {
	prover prover
	*exchange
}

// prover finds what an identity proves itself with.
type prover interface {
	// proof reads it. It is asked once for each mint, and once more when Entra ID
	// rejects what it said.
	proof(ctx context.Context, id *v1.AzureIdentity) (proof, *problem)
	// tenants are those to mint for, the identity's own first.
	tenants(id *v1.AzureIdentity) []string
}

// proof is a secret or a key, in memory for one mint. It must not print itself.
type proof interface {
	// sign adds the fields of the form that prove the identity to an endpoint.
	sign(form url.Values, at endpoint, clientID string, now time.Time) error
	// same tells whether another proof is this one: then trying it is no use.
	same(other proof) bool
	// leaked tells whether a text holds what must stay secret.
	leaked(text string) bool
	// names says what was presented, for messages: never the secret itself.
	names() string
}

// exchange is what all of Entra's sources share.
type exchange struct {
	cfg    EntraConfig
	client *http.Client
	away   *away
}

// EntraConfig is what Entra's sources share.
type EntraConfig struct {
	// Authority is that of the node's cloud.
	Authority Authority
	Limiter   Limiter
	Meter     Meter
	// Operation is what the calls are called in the metrics.
	Operation string
	// UserAgent is sent with each request.
	UserAgent string
	// Roots are the authorities' certificates to trust; nil: the system's.
	Roots *x509.CertPool
}

const (
	// entraAttempts of a mint: at once, and after some 0.25, 0.5 and 1 s.
	entraAttempts   = 4
	firstEntraPause = 250 * time.Millisecond
	// tenantsAtOnce bounds the calls for auxiliary tenants under way.
	tenantsAtOnce = 4
	// maxEntraReply bounds one answer: a token with all the groups that there can
	// be in it has some 15 kB. maxReplies bounds the tokens of all tenants.
	maxEntraReply = 48 << 10
	maxReplies    = 512 << 10
)

// newExchange returns what sources share. Connections to Entra ID go through the
// proxy of the environment, if there is one: its hosts are on the Internet.
func newExchange(c EntraConfig) *exchange {
	return &exchange{
		cfg: c, away: newAway(),
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
				TLSHandshakeTimeout:   3 * time.Second,
				ResponseHeaderTimeout: 10 * time.Second,
				MaxIdleConns:          16,
				MaxIdleConnsPerHost:   4,
				IdleConnTimeout:       90 * time.Second,
				// HTTP/1.1 and short headers: whoever writes an identity may say where
				// it is asked for, and an answer must cost no more than it should.
				MaxResponseHeaderBytes: 32 << 10,
				TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			},
			// A redirect would carry the proof to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Token mints a token. The error is a *Failure or ErrBusy.
func (e *Entra) Token(ctx context.Context, r Request) (*Token, error) {
	release, err := r.acquire(ctx, e.cfg.Limiter)
	if err != nil {
		if ctx.Err() == nil {
			return nil, ErrBusy
		}
		return nil, &Failure{
			Status: http.StatusInternalServerError, Code: "entra_id_busy", Cause: err, queued: true,
			Message: "too many token requests of this node wait for Entra ID: try again",
		}
	}
	defer release()
	t, p := e.mint(ctx, r)
	if p != nil {
		return nil, &p.Failure
	}
	return t, nil
}

// mint reads the proof and exchanges it. When Entra ID rejects the proof, it may
// have been replaced since it was read, so it is read once more; only one that
// changed is tried.
func (e *Entra) mint(ctx context.Context, r Request) (*Token, *problem) {
	if strings.ContainsAny(r.Resource, " \t\r\n") {
		return nil, &problem{Failure: Failure{Status: http.StatusBadRequest, Code: "invalid_resource", Message: "the resource has a blank in it"}}
	}
	first, p := e.prover.proof(ctx, r.Identity)
	if p != nil {
		return nil, p
	}
	t, p := e.all(ctx, r, first)
	if p == nil || !p.rejected {
		return t, p
	}
	second, again := e.prover.proof(ctx, r.Identity)
	if again != nil || second.same(first) {
		return nil, p
	}
	return e.all(ctx, r, second)
}

// all gets the token of each tenant.
func (e *Entra) all(ctx context.Context, r Request, with proof) (*Token, *problem) {
	tenants := e.prover.tenants(r.Identity)
	t, p := e.persist(ctx, r, tenants[0], with)
	if p != nil || len(tenants) == 1 {
		return t, p
	}
	var size atomic.Int64
	size.Store(int64(t.size()))
	t.Auxiliary = make([]*Token, len(tenants)-1)
	var group errgroup.Group
	group.SetLimit(tenantsAtOnce)
	for i, tenant := range tenants[1:] {
		group.Go(func() error {
			if size.Load() > maxReplies {
				return &refusedTenant{unusable(r.Identity, fmt.Errorf("the tokens of its auxiliary tenants have more than %d kB in all", maxReplies>>10))}
			}
			got, p := e.persist(ctx, r, tenant, with)
			if p != nil {
				return &refusedTenant{p}
			}
			size.Add(int64(got.size()))
			t.Auxiliary[i] = got
			return nil
		})
	}
	if refused, ok := errors.AsType[*refusedTenant](group.Wait()); ok {
		return nil, refused.problem
	}
	for _, other := range t.Auxiliary {
		t.shorten(other)
	}
	return t, nil
}

// refusedTenant carries a problem through an errgroup.
type refusedTenant struct{ *problem }

func (r *refusedTenant) Error() string { return r.Message }

// persist tries one tenant until there is a token, it is clear that there is
// none, or ctx ends.
func (x *exchange) persist(ctx context.Context, r Request, tenant string, with proof) (*Token, *problem) {
	at, err := x.cfg.Authority.endpoint(r.Identity, tenant)
	if err != nil {
		return nil, unusable(r.Identity, err)
	}
	whom := awayFrom{r.Identity.Namespace, at.url + " " + ascii.ToLower(r.Identity.Spec.ClientID)}
	pause := firstEntraPause
	for attempt := 1; ; attempt++ {
		if left := x.away.left(whom, time.Now()); left > 0 {
			return nil, throttled(left)
		}
		t, p := x.attempt(ctx, r, at, with, attempt == 1)
		if p == nil {
			return t, nil
		}
		if p.Status == http.StatusTooManyRequests {
			x.away.stay(whom, p.RetryAfter, time.Now())
		}
		// Spread, so that the nodes of a cluster do not come back in step.
		wait := max(pause/2+rand.N(pause/2), p.RetryAfter) //nolint:gosec // spreads load, guards nothing
		if !p.passing || attempt == entraAttempts || p.RetryAfter > maxRest || !rest(ctx, wait) {
			return nil, p
		}
		pause *= 2
	}
}

// attempt is one call, timed. The first has a bound of its own: one that takes
// longer was probably lost.
func (x *exchange) attempt(ctx context.Context, r Request, at endpoint, with proof, first bool) (*Token, *problem) {
	if first {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, firstCall)
		defer cancel()
	}
	began := time.Now()
	t, p := x.call(ctx, r, at, with)
	var outcome error
	if p != nil {
		outcome = &p.Failure
	}
	x.cfg.Meter.SourceOperation(x.cfg.Operation, time.Since(began), outcome)
	return t, p
}
