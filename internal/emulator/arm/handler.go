// Package arm is the emulated Azure Resource Manager: subscriptions, resource groups, user-assigned
// identities, and VMs and scale sets whose identities can be changed by long-running operations.
package arm

import (
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// verifier checks bearer tokens; entra.Tokens does.
type verifier interface {
	Verify(token string) (entra.Principal, error)
}

// Endpoints are the addresses that discovery returns, each https://host[:port] without a trailing
// slash.
type Endpoints struct{ ARM, Entra string }

// Handler serves ARM.
type Handler struct {
	world     *world.World
	tokens    verifier
	endpoints Endpoints
	log       *slog.Logger
	routes    []route
}

// NewHandler returns a handler for the world; v checks the tokens.
func NewHandler(w *world.World, v verifier, e Endpoints, log *slog.Logger) *Handler {
	h := &Handler{world: w, tokens: v, endpoints: e, log: log}
	h.routes = h.table()
	return h
}

// call is one request in the handler.
type call struct {
	w         http.ResponseWriter
	r         *http.Request
	params    map[string]string // the values of the {places} of the route, as sent
	principal entra.Principal
}

func (c *call) subscription() string { return c.params["subscription"] }
func (c *call) group() string        { return c.params["group"] }
func (c *call) version() string      { return queryFold(c.r, "api-version") }

// ServeHTTP checks in ARM's order: token, api-version, path, subscription, limit, permission.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w, r)
	path := segments(r.URL.Path)
	if len(path) == 2 && world.EqualFold(path[0], "metadata") && world.EqualFold(path[1], "endpoints") {
		h.metadata(w, r)
		return
	}
	c := &call{w: w, r: r}
	if err := h.serve(c, path); err != nil {
		front.Detail(r.Context(), "error", err.code)
		err.write(w)
	}
}

func (h *Handler) serve(c *call, path []string) *failure {
	if err := h.authenticate(c); err != nil {
		return err
	}
	if err := checkVersion(c.version()); err != nil {
		return err
	}
	route, err := h.find(c, path)
	if err != nil {
		return err
	}
	if id, ok := c.params["subscription"]; ok {
		if _, known := h.world.Subscription(id); !known {
			return noSubscription(id)
		}
	}
	if err := h.limit(c); err != nil {
		return err
	}
	if err := h.authorize(c, route.action, c.r.URL.Path); err != nil {
		return err
	}
	return route.serve(c)
}

// authenticate checks the bearer token as ARM does, with the same error codes.
func (h *Handler) authenticate(c *call) *failure {
	header := c.r.Header.Get("Authorization")
	if header == "" {
		return unauthorized(h.endpoints.Entra, "AuthenticationFailed",
			"Authentication failed. The 'Authorization' header is missing.")
	}
	scheme, text, _ := strings.Cut(header, " ")
	if !world.EqualFold(scheme, "Bearer") || strings.TrimSpace(text) == "" {
		return unauthorized(h.endpoints.Entra, "AuthenticationFailedInvalidHeader",
			"Authentication failed. The 'Authorization' header is provided in an invalid format.")
	}
	p, err := h.tokens.Verify(strings.TrimSpace(text))
	switch {
	case errors.Is(err, entra.ErrExpired):
		return unauthorized(h.endpoints.Entra, "ExpiredAuthenticationToken",
			"The access token expiry UTC time is earlier than current UTC time.")
	case err != nil:
		return unauthorized(h.endpoints.Entra, "InvalidAuthenticationToken", "The access token is invalid.")
	}
	front.Caller(c.r.Context(), p.PrincipalID)
	c.principal = p
	for _, base := range []string{
		"https://management.azure.com", "https://management.core.windows.net", h.endpoints.ARM, "https://" + c.r.Host,
	} {
		if world.EqualFold(strings.TrimSuffix(p.Audience, "/"), base) {
			return nil
		}
	}
	return unauthorized(h.endpoints.Entra, "InvalidAuthenticationTokenAudience",
		"The access token has been obtained for wrong audience or resource '%s'. It should exactly match with one of the "+
			"allowed audiences 'https://management.core.windows.net/','https://management.core.windows.net',"+
			"'https://management.azure.com/','https://management.azure.com','%s/'.", bounded(p.Audience), h.endpoints.ARM)
}

var versionShape = regexp.MustCompile(`^20\d\d-\d\d-\d\d(-preview)?$`)

func checkVersion(version string) *failure {
	if version == "" {
		return fail(http.StatusBadRequest, "MissingApiVersionParameter",
			"The api-version query parameter (?api-version=) is required for all requests.")
	}
	if !versionShape.MatchString(version) {
		return fail(http.StatusBadRequest, "InvalidApiVersionParameter", "The api-version '%s' is invalid.", bounded(version))
	}
	return nil
}

func noSubscription(id string) *failure {
	return fail(http.StatusNotFound, "SubscriptionNotFound", "The subscription '%s' could not be found.", bounded(id))
}

func (h *Handler) authorize(c *call, action, scope string) *failure {
	if action == "" || h.world.Allowed(c.principal.PrincipalID, action, scope) {
		return nil
	}
	return fail(http.StatusForbidden, "AuthorizationFailed",
		"The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the "+
			"scope is invalid. If access was recently granted, please refresh your credentials.",
		c.principal.ClientID, c.principal.PrincipalID, action, bounded(scope))
}

func setHeaders(w http.ResponseWriter, r *http.Request) {
	id := world.NewGUID()
	correlation := r.Header.Get("X-Ms-Correlation-Request-Id")
	if len(correlation) != 36 {
		correlation = id
	}
	header := w.Header()
	header.Set("X-Ms-Request-Id", id)
	header.Set("X-Ms-Correlation-Request-Id", correlation)
	header.Set("X-Ms-Routing-Request-Id", "EMULATOR:"+id)
	header.Set("Cache-Control", "no-cache")
	header.Set("Pragma", "no-cache")
	header.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	header.Set("X-Content-Type-Options", "nosniff")
	if client := r.Header.Get("X-Ms-Client-Request-Id"); len(client) <= 64 && client != "" {
		header.Set("X-Ms-Client-Request-Id", client)
	}
}

// queryFold returns a query parameter, ignoring the case of its name.
func queryFold(r *http.Request, name string) string {
	for key, values := range r.URL.Query() {
		if world.EqualFold(key, name) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

func segments(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// bounded limits how much of a client's input appears in a response.
func bounded(s string) string {
	if len(s) > 512 {
		return strings.ToValidUTF8(s[:512], "") + "…"
	}
	return s
}
