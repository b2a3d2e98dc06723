// Issuing and checking access tokens.

package entra

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/podid-io/podid/internal/emulator/world"
)

// Tokens issues access tokens and checks them. It is safe for concurrent use.
type Tokens struct {
	keys  *Keys
	world *world.World
	base  string // https://host[:port] without a trailing slash
}

// NewTokens returns Tokens whose issuer is at base.
func NewTokens(keys *Keys, w *world.World, base string) *Tokens {
	return &Tokens{keys: keys, world: w, base: strings.TrimSuffix(base, "/")}
}

// Subject is the principal that a token is issued to.
type Subject struct {
	TenantID, ClientID, PrincipalID string
	// ResourceID is the ARM ID of a managed identity (claim xms_mirid), empty for applications.
	ResourceID string
	// MachineID is the ARM ID of the VM on which a managed identity is used (claim xms_az_rid).
	MachineID string
	// Certain reports whether the client authenticated with more than a secret (claim appidacr 2
	// instead of 1).
	Certain bool
}

// Token is an issued token.
type Token struct {
	Text     string
	Resource string    // as requested
	Issued   time.Time // also the nbf claim
	Expires  time.Time
}

// Mint signs a token whose audience is exactly the given resource. The token has the v2 form only
// if the resource is an application of the world with accessTokenVersion 2; Azure's own services
// all use v1.
func (t *Tokens) Mint(s Subject, resource string, lifetime time.Duration) (Token, error) {
	now := t.world.Now().Truncate(time.Second)
	token := Token{Resource: resource, Issued: now, Expires: now.Add(lifetime)}
	claims := jwt.MapClaims{
		"aud": resource, "iss": t.issuerV1(s.TenantID), "iat": now.Unix(), "nbf": now.Unix(), "exp": token.Expires.Unix(),
		"aio": random(24), "uti": random(16), "rh": "0." + random(24),
		"tid": s.TenantID, "oid": s.PrincipalID, "sub": s.PrincipalID,
		"appid": s.ClientID, "appidacr": certainty(s), "idp": t.issuerV1(s.TenantID), "idtyp": "app", "ver": "1.0",
	}
	if app, _ := t.world.KnownResource(resource); app != nil && app.AccessTokenVersion == 2 {
		delete(claims, "appid")
		delete(claims, "appidacr")
		delete(claims, "idp")
		claims["aud"], claims["iss"], claims["ver"] = app.ClientID, t.issuerV2(s.TenantID), "2.0"
		claims["azp"], claims["azpacr"] = s.ClientID, certainty(s)
	}
	if s.ResourceID != "" {
		claims["xms_mirid"] = s.ResourceID
	}
	if s.MachineID != "" {
		claims["xms_az_rid"] = s.MachineID
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	unsigned.Header["kid"], unsigned.Header["x5t"] = t.keys.id, t.keys.id
	text, err := unsigned.SignedString(t.keys.private)
	if err != nil {
		return Token{}, fmt.Errorf("sign token: %w", err)
	}
	token.Text = text
	return token, nil
}

func certainty(s Subject) string {
	if s.Certain {
		return "2"
	}
	return "1"
}

func (t *Tokens) issuerV1(tenant string) string {
	if tenant == tenantADFS {
		return t.base + "/" + tenant
	}
	return t.base + "/" + tenant + "/"
}
func (t *Tokens) issuerV2(tenant string) string { return t.base + "/" + tenant + "/v2.0" }

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails according to crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}

// Principal is the principal of a verified token.
type Principal struct {
	ClientID, PrincipalID, TenantID, Audience string
}

// Errors of Verify.
var (
	ErrMalformed = errors.New("not a token of this Entra ID")
	ErrExpired   = errors.New("the token is expired or not yet valid")
)

// Verify checks the signature, issuer and times of a token. The caller must check the audience.
func (t *Tokens) Verify(text string) (Principal, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(text, claims, func(*jwt.Token) (any, error) { return t.keys.private.Public(), nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithTimeFunc(t.world.Now), jwt.WithExpirationRequired())
	switch {
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet):
		return Principal{}, ErrExpired
	case err != nil:
		return Principal{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	p := Principal{
		ClientID: claim(claims, "appid", "azp"), PrincipalID: claim(claims, "oid", ""),
		TenantID: claim(claims, "tid", ""), Audience: claim(claims, "aud", ""),
	}
	if iss := claim(claims, "iss", ""); iss != t.issuerV1(p.TenantID) && iss != t.issuerV2(p.TenantID) {
		return Principal{}, fmt.Errorf("%w: issuer %q", ErrMalformed, iss)
	}
	return p, nil
}

// claim returns the claim called name or, without it, the one called other.
func claim(claims jwt.MapClaims, name, other string) string {
	if s, ok := claims[name].(string); ok {
		return s
	}
	s, _ := claims[other].(string)
	return s
}
