// Client authentication: by secret, by certificate, or by a token of another issuer.

package entra

import (
	"crypto"
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	assertionType   = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	defaultAudience = "api://AzureADTokenExchange"
)

// client is an application, or an identity with federated credentials, in a common form.
type client struct {
	subject   Subject
	app       world.Application
	federated []world.FederatedCredential
}

func (h *Handler) client(id, tenant string) (client, *failure) {
	unknown := failed(http.StatusBadRequest, "unauthorized_client", 700016,
		"Application with identifier '%s' was not found in the directory '%s'. This can happen if the application has not "+
			"been installed by the administrator of the tenant or consented to by any user in the tenant.", bounded(id), tenant)
	in := func(t string) bool { return world.EqualFold(t, tenant) }
	if a, ok := h.world.Application(id); ok && (in(a.TenantID) || slices.ContainsFunc(a.OtherTenantIDs, in)) {
		return client{
			subject: Subject{TenantID: tenant, ClientID: a.ClientID, PrincipalID: a.PrincipalID},
			app:     a, federated: a.FederatedCredentials,
		}, nil
	}
	if i, ok := h.world.IdentityByClientID(id); ok && world.EqualFold(i.TenantID, tenant) {
		return client{
			subject: Subject{
				TenantID: i.TenantID, ClientID: i.ClientID, PrincipalID: i.PrincipalID, ResourceID: i.ResourceID,
			},
			federated: i.FederatedCredentials,
		}, nil
	}
	return client{}, unknown
}

func (h *Handler) authenticate(r *http.Request, tenant string, form url.Values) (Subject, *failure) {
	c, failure := h.client(form.Get("client_id"), tenant)
	if failure != nil {
		return Subject{}, failure
	}
	switch {
	case form.Get("client_assertion") != "":
		if form.Get("client_assertion_type") != assertionType {
			return Subject{}, badRequest(900144, "The request body must contain the following parameter: "+
				"'client_assertion_type', with the value %s.", assertionType)
		}
		failure = h.checkAssertion(r, c, tenant, form.Get("client_assertion"))
		c.subject.Certain = true
	case form.Get("client_secret") != "":
		failure = h.checkSecret(c.app, form.Get("client_secret"))
	default:
		failure = badClient(7000216, "'client_assertion', 'client_secret' or 'request' is required for the "+
			"'client_credentials' grant type.")
	}
	return c.subject, failure
}

func (h *Handler) checkSecret(app world.Application, secret string) *failure {
	if app.Secret == "" || subtle.ConstantTimeCompare([]byte(app.Secret), []byte(secret)) != 1 {
		return badClient(7000215, "Invalid client secret provided. Ensure the secret being sent in the request is the "+
			"client secret value, not the client secret ID, for a secret added to app '%s'.", app.ClientID)
	}
	if app.SecretExpires != nil && h.world.Now().After(*app.SecretExpires) {
		return badClient(7000222, "The provided client secret keys for app '%s' are expired.", app.ClientID)
	}
	return nil
}

// checkAssertion distinguishes the two kinds of assertion by their issuer. A client signs its own
// assertions with its certificate; any other issuer must be trusted by a federated credential.
func (h *Handler) checkAssertion(r *http.Request, c client, tenant, assertion string) *failure {
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(assertion, claims)
	if err != nil {
		return badClient(50027, "JWT token is invalid or malformed.")
	}
	if world.EqualFold(claim(claims, "iss", ""), c.subject.ClientID) {
		return h.checkCertificate(r, c, tenant, assertion, token)
	}
	return h.checkFederated(r, c, assertion, claims)
}

func (h *Handler) checkCertificate(r *http.Request, c client, tenant, assertion string, token *jwt.Token) *failure {
	notRegistered := badClient(700027, "The certificate with identifier used to sign the client assertion is not "+
		"registered on application '%s'.", c.subject.ClientID)
	cert, err := world.ParseCertificate(c.app.Certificate)
	if err != nil {
		return notRegistered
	}
	old, now := sha1.Sum(cert.Raw), sha256.Sum256(cert.Raw) //nolint:gosec // thumbprints
	named := false
	for header, want := range map[string]string{
		"x5t":      base64.RawURLEncoding.EncodeToString(old[:]),
		"x5t#S256": base64.RawURLEncoding.EncodeToString(now[:]),
	} {
		got, ok := token.Header[header].(string)
		if named = named || ok; ok && urlAlphabet(got) != want {
			return notRegistered
		}
	}
	if !named { // Entra ID does not try all certificates of an application
		return notRegistered
	}
	claims := jwt.MapClaims{}
	if failure := h.parse(assertion, claims, cert.PublicKey, c.subject.ClientID); failure != nil {
		return failure
	}
	if sub := claim(claims, "sub", ""); !world.EqualFold(sub, c.subject.ClientID) {
		return badClient(700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
	}
	audience, _ := claims.GetAudience()
	if !slices.ContainsFunc(audience, func(a string) bool { return h.isEndpoint(a, r.Host, tenant) }) {
		return badClient(700023, "Client assertion audience claim does not match Realm issuer.")
	}
	return nil
}

// urlAlphabet converts base64 to the alphabet that RFC 7515 requires; MSAL Go uses the standard
// alphabet for thumbprints.
func urlAlphabet(s string) string { return strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(s) }

// isEndpoint reports whether an audience is the token endpoint or the issuer of the tenant, under
// the host that the client used or the advertised one.
func (h *Handler) isEndpoint(audience, host, tenant string) bool {
	for _, base := range []string{h.tokens.base, "https://" + host} {
		rest, ok := strings.CutPrefix(audience, base+"/")
		if !ok {
			continue
		}
		name, path, _ := strings.Cut(rest, "/")
		if t, _ := h.world.Tenant(name); !world.EqualFold(t.ID, tenant) && (!isADFS(name) || !isADFS(tenant)) {
			continue
		}
		if slices.Contains([]string{"", "v2.0", "oauth2/token", "oauth2/v2.0/token"}, strings.TrimSuffix(path, "/")) {
			return true
		}
	}
	return false
}

func (h *Handler) checkFederated(r *http.Request, c client, assertion string, claims jwt.MapClaims) *failure {
	issuer, subject := claim(claims, "iss", ""), claim(claims, "sub", "")
	audience, _ := claims.GetAudience()
	noMatch := func(code int, what string) *failure {
		return badRequest(code, "No matching federated identity record found for presented assertion %s. Assertion "+
			"Issuer: '%s'. Assertion Subject: '%s'. Assertion Audience: '%s'.",
			what, bounded(issuer), bounded(subject), bounded(strings.Join(audience, " ")))
	}
	step, code := "issuer", 700211
	for _, cred := range c.federated {
		want := cred.Audience
		if want == "" {
			want = defaultAudience
		}
		switch {
		case cred.Issuer != issuer:
		case cred.Subject != subject:
			step, code = "subject", 700213
		case !slices.Contains(audience, want):
			if code != 700213 {
				step, code = "audience", 700212
			}
		default:
			return h.verifyFederated(r, issuer, assertion)
		}
	}
	return noMatch(code, step)
}

func (h *Handler) verifyFederated(r *http.Request, name, assertion string) *failure {
	issuer, ok := h.world.Issuer(name)
	if !ok {
		return badRequest(50166, "The keys of the issuer '%s' are not known: add it to the world's issuers.", bounded(name))
	}
	keys, err := issuerKeys(r.Context(), issuer)
	if err != nil {
		return badRequest(50166, "The keys of the issuer '%s' cannot be read: %s.", bounded(name), err)
	}
	token, _, err := jwt.NewParser().ParseUnverified(assertion, jwt.MapClaims{})
	if err != nil {
		return badClient(50027, "JWT token is invalid or malformed.")
	}
	kid, _ := token.Header["kid"].(string)
	for _, key := range keys {
		if kid == "" || key.id == "" || key.id == kid {
			if failure := h.parse(assertion, jwt.MapClaims{}, key.public, name); failure == nil || failure.code != 700027 {
				return failure
			}
		}
	}
	return badClient(700027, "Client assertion contains an invalid signature: no key of the issuer '%s' fits.", bounded(name))
}

// parse verifies the signature and times of an assertion, with Entra ID's tolerance of five
// minutes.
func (h *Handler) parse(assertion string, claims jwt.MapClaims, key crypto.PublicKey, who string) *failure {
	_, err := jwt.ParseWithClaims(assertion, claims, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"RS256", "PS256", "RS384", "RS512", "PS384", "PS512", "ES256", "ES384", "ES512"}),
		jwt.WithTimeFunc(h.world.Now), jwt.WithLeeway(5*time.Minute), jwt.WithExpirationRequired())
	switch {
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet):
		return badClient(700024, "Client assertion is not within its valid time range.")
	case err != nil:
		return badClient(700027, "Client assertion of '%s' contains an invalid signature.", bounded(who))
	}
	return nil
}
