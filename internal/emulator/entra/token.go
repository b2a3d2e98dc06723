// The token endpoints, v1 and v2: reading a request and checking the client's credential.

package entra

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/front"
)

// token handles POST /{tenant}/oauth2/token (version 1) and /{tenant}/oauth2/v2.0/token (version
// 2).
func (h *Handler) token(w http.ResponseWriter, r *http.Request, tenant string, version int) {
	token, failure := h.grant(r, tenant, version)
	if failure != nil {
		front.Detail(r.Context(), "error", "AADSTS"+strconv.Itoa(failure.code))
		h.fail(w, r, failure)
		return
	}
	in := int(token.Expires.Sub(h.world.Now()).Seconds())
	w.Header().Set("Client-Request-Id", correlationID(r))
	if version == 1 { // all strings
		text := strconv.Itoa(in)
		writeJSON(w, http.StatusOK, map[string]string{
			"token_type": "Bearer", "expires_in": text, "ext_expires_in": text, "access_token": token.Text,
			"expires_on": strconv.FormatInt(token.Expires.Unix(), 10),
			"not_before": strconv.FormatInt(token.Issued.Unix(), 10), "resource": token.Resource,
		})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": in, "ext_expires_in": in, "access_token": token.Text,
	})
}

// grant checks the request in Entra ID's order: tenant, grant type, client, credential, resource.
func (h *Handler) grant(r *http.Request, tenantName string, version int) (Token, *failure) {
	if r.Method != http.MethodPost {
		return Token{}, failed(http.StatusMethodNotAllowed, "invalid_request", 900561,
			"The endpoint only accepts POST requests. Received a %s request.", r.Method)
	}
	tenant, failure := h.tenantID(tenantName)
	if failure != nil {
		return Token{}, failure
	}
	if tenant == "{tenantid}" {
		return Token{}, badRequest(90130, "Application-only tokens need a tenant: /%s is not one.", bounded(tenantName))
	}
	if err := r.ParseForm(); err != nil {
		return Token{}, badRequest(90014, "The request body is not a form, or too large.")
	}
	form := r.PostForm
	switch grant := form.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		return Token{}, badRequest(900144, "The request body must contain the following parameter: 'grant_type'.")
	default:
		return Token{}, failed(http.StatusBadRequest, "unsupported_grant_type", 70003,
			"The app requested an unsupported grant type '%s'. The emulator knows client_credentials.", bounded(grant))
	}
	id := form.Get("client_id")
	if id == "" {
		return Token{}, badRequest(900144, "The request body must contain the following parameter: 'client_id'.")
	}
	front.Caller(r.Context(), id)
	subject, failure := h.authenticate(r, tenant, form)
	if failure != nil {
		return Token{}, failure
	}
	resource, failure := h.resource(form, version)
	if failure != nil {
		return Token{}, failure
	}
	front.Detail(r.Context(), "resource", resource)
	token, err := h.tokens.Mint(subject, resource, time.Duration(h.world.Settings().Entra.TokenLifetime))
	if err != nil {
		return Token{}, failed(http.StatusInternalServerError, "server_error", 90033, "The token cannot be signed.")
	}
	return token, nil
}

// resource returns the audience of the token: resource in v1, scope without one trailing /.default
// in v2.
func (h *Handler) resource(form url.Values, version int) (string, *failure) {
	resource := form.Get("resource")
	if version == 2 {
		var failure *failure
		if resource, failure = scopeResource(form.Get("scope")); failure != nil {
			return "", failure
		}
	} else if resource == "" {
		return "", badRequest(900144, "The request body must contain the following parameter: 'resource'.")
	}
	if strings.ContainsAny(resource, " \t\r\n") || len(resource) > 1024 {
		return "", failed(http.StatusBadRequest, "invalid_resource", 50001, "The resource '%s' is malformed.", bounded(resource))
	}
	if _, known := h.world.KnownResource(resource); !known {
		return "", failed(http.StatusBadRequest, "invalid_resource", 500011,
			"The resource principal named %s was not found in the tenant.", bounded(resource))
	}
	return resource, nil
}

func scopeResource(scope string) (string, *failure) {
	var wanted []string
	for s := range strings.FieldsSeq(scope) {
		if !slices.Contains([]string{"openid", "offline_access", "profile", "email"}, s) { // MSAL adds these
			wanted = append(wanted, s)
		}
	}
	switch {
	case scope == "":
		return "", badRequest(900144, "The request body must contain the following parameter: 'scope'.")
	case len(wanted) != 1:
		return "", failed(http.StatusBadRequest, "invalid_scope", 70011,
			"The provided value for the input parameter 'scope' is not valid: name the scope of exactly one resource.")
	}
	resource, ok := strings.CutSuffix(wanted[0], "/.default")
	if !ok || resource == "" {
		return "", failed(http.StatusBadRequest, "invalid_scope", 1002012,
			"The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default "+
				"suffixed to the resource identifier (application ID URI).", bounded(wanted[0]))
	}
	return resource, nil
}
