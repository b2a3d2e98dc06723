// Package entra gets tokens of applications from Entra ID or ADFS, by one POST with a proof of the
// identity: a client secret, a certificate, or a federated token. It calls the token endpoint
// without any discovery, so nothing but the configuration can send the proof elsewhere.
package entra

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Source is the source of tokens for one type of identity. It reads the proof for each token that
// is minted and does not keep it.
type Source struct {
	cfg      Config
	proofs   proofSource
	client   *http.Client
	cooldown *cooldown
}

// proofSource reads what identities prove themselves with.
type proofSource interface {
	// proof is called once for each mint, and again if Entra ID rejects the proof.
	proof(ctx context.Context, id *v1.AzureIdentity) (proof, error)
	// tenants returns the tenants to mint for, the identity's own first.
	tenants(id *v1.AzureIdentity) []string
}

// proof is a secret or a key, in memory for one mint. It must print as a mask.
type proof interface {
	// sign adds the fields of the form that prove the identity to an endpoint.
	sign(form url.Values, at endpoint, clientID string, now time.Time) error
	// equal reports whether another proof is the same, so that it would be rejected as well.
	equal(other proof) bool
	// leaked reports whether a text contains what must stay secret.
	leaked(text string) bool
	// describe names what was presented, for messages.
	describe() string
}

// Config is the configuration of the sources.
type Config struct {
	source.Calls
	// Authority is that of the node's cloud.
	Authority Authority
	// Roots are the certificate authorities to trust. Nil: the system's.
	Roots *x509.CertPool
}

const (
	// attempts and firstPause make pauses of about 0.25, 0.5 and 1 s.
	attempts   = 4
	firstPause = 250 * time.Millisecond
	// tenantsAtOnce bounds the concurrent calls for auxiliary tenants.
	tenantsAtOnce = 4
	// maxReply bounds one answer: a token with the largest possible list of groups has some 15 kB.
	// maxReplies bounds the tokens of all tenants.
	maxReply   = 48 << 10
	maxReplies = 512 << 10
)

// newSource returns a source. Its connections use the environment's proxy: Entra ID is on the
// Internet.
func newSource(c Config, proofs proofSource) *Source {
	return &Source{
		cfg: c, proofs: proofs, cooldown: newCooldown(),
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
				TLSHandshakeTimeout:   3 * time.Second,
				ResponseHeaderTimeout: 10 * time.Second,
				MaxIdleConns:          16,
				MaxIdleConnsPerHost:   4,
				IdleConnTimeout:       90 * time.Second,
				// The author of an identity chooses the endpoint, so an answer must stay cheap:
				// HTTP/1.1 and short headers.
				MaxResponseHeaderBytes: 32 << 10,
				TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			},
			// A redirect would send the proof to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Token implements token.Source.
func (s *Source) Token(ctx context.Context, r token.Request) (*token.Token, error) {
	release, err := s.cfg.Acquire(ctx, &r)
	if err != nil {
		if ctx.Err() == nil {
			return nil, token.ErrBusy
		}
		return nil, &reason.Refusal{
			Reason: reason.EntraBusy, Cause: err,
			Message: "too many token requests of this node wait for Entra ID: try again",
		}
	}
	defer release()
	return s.mint(ctx, r)
}

// rejection is the failure of a proof that Entra ID rejected.
type rejection struct{ *reason.Refusal }

// Unwrap returns the failure.
func (r rejection) Unwrap() error { return r.Refusal }

// mint reads the proof and exchanges it. A rejected proof may have been replaced since it was read.
// So mint reads it again, and tries a proof that differs.
func (s *Source) mint(ctx context.Context, r token.Request) (*token.Token, error) {
	if strings.ContainsAny(r.Resource, " \t\r\n") {
		return nil, &reason.Refusal{
			Reason: reason.EntraResource, Message: "the resource has a blank in it",
		}
	}
	first, err := s.proofs.proof(ctx, r.Identity)
	if err != nil {
		return nil, err
	}
	t, err := s.allTenants(ctx, r, first)
	if _, rejected := errors.AsType[rejection](err); !rejected {
		return t, err
	}
	second, again := s.proofs.proof(ctx, r.Identity)
	if again != nil || second.equal(first) {
		return nil, err
	}
	return s.allTenants(ctx, r, second)
}

// allTenants gets the token of each tenant.
func (s *Source) allTenants(ctx context.Context, r token.Request, with proof) (*token.Token, error) {
	tenants := s.proofs.tenants(r.Identity)
	t, err := s.retry(ctx, r, tenants[0], with)
	if err != nil || len(tenants) == 1 {
		return t, err
	}
	var size atomic.Int64
	size.Store(int64(t.Size()))
	t.Auxiliary = make([]*token.Token, len(tenants)-1)
	var group errgroup.Group
	group.SetLimit(tenantsAtOnce)
	for i, tenant := range tenants[1:] {
		group.Go(func() error {
			if size.Load() > maxReplies {
				return unusable(r.Identity,
					fmt.Errorf("the tokens of its auxiliary tenants have more than %d kB in all", maxReplies>>10))
			}
			other, err := s.retry(ctx, r, tenant, with)
			if err != nil {
				return err
			}
			size.Add(int64(other.Size()))
			t.Auxiliary[i] = other
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, other := range t.Auxiliary {
		if other.ExpiresOn.Before(t.ExpiresOn) {
			t.ExpiresOn = other.ExpiresOn
		}
		if other.NotBefore.After(t.NotBefore) {
			t.NotBefore = other.NotBefore
		}
	}
	return t, nil
}

// retry gets the token of one tenant.
func (s *Source) retry(ctx context.Context, r token.Request, tenant string, with proof) (*token.Token, error) {
	at, err := s.cfg.Authority.endpoint(r.Identity, tenant)
	if err != nil {
		return nil, unusable(r.Identity, err)
	}
	key := cooldownKey{r.Identity.Namespace, at.url + " " + ascii.ToLower(r.Identity.Spec.ClientID)}
	begin := func(context.Context) (end func(), err error) {
		if left := s.cooldown.left(key, time.Now()); left > 0 {
			return nil, throttled(left)
		}
		return func() {}, nil
	}
	call := func(ctx context.Context) (*token.Token, error) { return s.call(ctx, r, at, with) }
	backoff := source.Backoff{Attempts: attempts, First: firstPause, Jitter: true}
	return backoff.Do(ctx, begin, func(ctx context.Context, first bool) (*token.Token, error) {
		t, err := s.cfg.Measure(ctx, first, call)
		if f := reason.AsRefusal(err); f != nil && f.Answer().Status == http.StatusTooManyRequests {
			s.cooldown.start(key, f.RetryAfter, time.Now())
		}
		return t, err
	})
}

// unusable is the failure of an identity that its author must fix.
func unusable(id *v1.AzureIdentity, err error) error {
	return &reason.Refusal{
		Reason:  reason.SecretUnusable,
		Message: fmt.Sprintf("AzureIdentity %s cannot be used: %v", source.Name(id), err),
	}
}
