// The routes of Entra ID, and its discovery documents.

package entra

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/podid-io/podid/internal/emulator/world"
)

// Handler serves Entra ID.
type Handler struct {
	world  *world.World
	tokens *Tokens
}

// NewHandler returns a handler that issues the tokens of t.
func NewHandler(w *world.World, t *Tokens) *Handler { return &Handler{world: w, tokens: t} }

// ServeHTTP routes by the part of the path after the tenant.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tenant, rest, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	switch rest = world.Fold(rest); {
	case isADFS(tenant):
		h.adfs(w, r, rest)
	case rest == "oauth2/token":
		h.token(w, r, tenant, 1)
	case rest == "oauth2/v2.0/token":
		h.token(w, r, tenant, 2)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.fail(w, r, failed(http.StatusMethodNotAllowed, "invalid_request", 900561,
			"The endpoint only accepts GET requests. Received a %s request.", r.Method))
	case rest == "discovery/instance":
		h.instance(w, r)
	case rest == "v2.0/.well-known/openid-configuration":
		h.configuration(w, r, tenant, 2)
	case rest == ".well-known/openid-configuration":
		h.configuration(w, r, tenant, 1)
	case rest == "discovery/v2.0/keys":
		h.keys(w, r, tenant, 2)
	case rest == "discovery/keys":
		h.keys(w, r, tenant, 1)
	default:
		h.fail(w, r, failed(http.StatusNotFound, "invalid_request", 90043, "There is nothing at this path."))
	}
}

// tenantID resolves the tenant of a path. common and organizations represent any tenant; their
// issuer is a template.
func (h *Handler) tenantID(name string) (string, *failure) {
	if world.EqualFold(name, "common") || world.EqualFold(name, "organizations") {
		return "{tenantid}", nil
	}
	if t, ok := h.world.Tenant(name); ok {
		return t.ID, nil
	}
	return "", badRequest(90002, "Tenant '%s' not found. Check to make sure you have the correct tenant ID and are "+
		"signing into the correct cloud.", bounded(name))
}

// instance confirms to MSAL that this authority is valid and has no aliases.
func (h *Handler) instance(w http.ResponseWriter, r *http.Request) {
	asked := r.URL.Query().Get("authorization_endpoint")
	u, err := url.Parse(asked)
	if asked == "" || err != nil || u.Host == "" {
		h.fail(w, r, badRequest(900144, "The request must contain the following parameter: 'authorization_endpoint'."))
		return
	}
	if u.Scheme != "https" {
		h.fail(w, r, badRequest(50049, "Unknown or invalid instance."))
		return
	}
	tenant, _, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	writeJSON(w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": "https://" + u.Host + "/" + url.PathEscape(tenant) + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata": []any{map[string]any{
			"preferred_network": u.Host, "preferred_cache": u.Host, "aliases": []string{u.Host},
		}},
	})
}

func (h *Handler) configuration(w http.ResponseWriter, r *http.Request, name string, version int) {
	id, failure := h.tenantID(name)
	if failure != nil {
		h.fail(w, r, failure)
		return
	}
	path := id
	if id == "{tenantid}" {
		path = world.Fold(name)
	}
	base := h.tokens.base + "/" + path
	issuer, oauth, keys := h.tokens.issuerV2(id), base+"/oauth2/v2.0", base+"/discovery/v2.0/keys"
	if version == 1 {
		issuer, oauth, keys = h.tokens.issuerV1(id), base+"/oauth2", base+"/discovery/keys"
	}
	host := strings.TrimPrefix(h.tokens.base, "https://")
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": issuer, "token_endpoint": oauth + "/token", "authorization_endpoint": oauth + "/authorize",
		"device_authorization_endpoint": oauth + "/devicecode", "end_session_endpoint": oauth + "/logout", "jwks_uri": keys,
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
		"response_modes_supported":              []string{"query", "fragment", "form_post"},
		"response_types_supported":              []string{"code", "id_token", "code id_token", "id_token token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
		"claims_supported":                      []string{"sub", "iss", "aud", "exp", "iat", "tid", "oid", "appid", "azp", "ver"},
		"request_uri_parameter_supported":       false, "tenant_region_scope": nil,
		"cloud_instance_name": host, "cloud_graph_host_name": host, "msgraph_host": host, "rbac_url": "https://" + host,
	})
}

func (h *Handler) keys(w http.ResponseWriter, r *http.Request, name string, version int) {
	id, failure := h.tenantID(name)
	if failure != nil {
		h.fail(w, r, failure)
		return
	}
	issuer := h.tokens.issuerV2(id)
	if version == 1 {
		issuer = ""
	}
	writeJSON(w, http.StatusOK, h.tokens.keys.set(issuer))
}

// bounded limits how much of a client's input appears in a response.
func bounded(s string) string {
	if len(s) > 256 {
		return strings.ToValidUTF8(s[:256], "") + "…"
	}
	return s
}
