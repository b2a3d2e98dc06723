// AD FS, as on Azure Stack: an older version of the same protocol. Its clients are the world's
// applications of the tenant "adfs".

package entra

import (
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// tenantADFS is the path of AD FS, and the tenant of its applications.
const tenantADFS = world.TenantADFS

// adfs routes the paths below /adfs/.
func (h *Handler) adfs(w http.ResponseWriter, r *http.Request, rest string) {
	switch base := h.tokens.base + "/" + tenantADFS; rest {
	case "oauth2/token":
		h.adfsToken(w, r)
	case ".well-known/openid-configuration":
		writeJSON(w, http.StatusOK, map[string]any{
			"issuer": h.tokens.issuerV1(tenantADFS), "token_endpoint": base + "/oauth2/token",
			"authorization_endpoint": base + "/oauth2/authorize", "jwks_uri": base + "/discovery/keys",
			"token_endpoint_auth_methods_supported":            []string{"client_secret_post", "private_key_jwt"},
			"token_endpoint_auth_signing_alg_values_supported": []string{"RS256"},
			"id_token_signing_alg_values_supported":            []string{"RS256"},
		})
	case "discovery/keys":
		writeJSON(w, http.StatusOK, h.tokens.keys.set(""))
	default:
		h.failADFS(w, &failure{http.StatusNotFound, "invalid_request", 0, "MSIS7012: There is nothing at this path."})
	}
}

func (h *Handler) adfsToken(w http.ResponseWriter, r *http.Request) {
	token, failure := h.adfsGrant(r)
	if failure != nil {
		front.Detail(r.Context(), "error", failure.kind)
		h.failADFS(w, failure)
		return
	}
	// expires_in is a number, and there is no expires_on.
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token.Text, "token_type": "bearer", "expires_in": int(token.Expires.Sub(h.world.Now()).Seconds()),
	})
}

// adfsGrant checks a request as ADFS does.
func (h *Handler) adfsGrant(r *http.Request) (Token, *failure) {
	if r.Method != http.MethodPost || r.ParseForm() != nil || r.PostForm.Get("grant_type") != "client_credentials" {
		return Token{}, adfsFailure("invalid_request", "MSIS9611: The authorization server does not support this request: post a form with grant_type=client_credentials.")
	}
	form := r.PostForm
	id, resource := form.Get("client_id"), form.Get("resource")
	front.Caller(r.Context(), id)
	app, known := h.world.Application(id)
	if !known || app.TenantID != tenantADFS {
		return Token{}, adfsFailure("invalid_client", "MSIS9607: The 'client_id' parameter in the request is invalid. No registered client is found with this identifier.")
	}
	if failure := h.adfsAuthenticate(r, app, form); failure != nil {
		return Token{}, failure
	}
	if _, known := h.world.KnownResource(resource); !known || resource == "" {
		return Token{}, adfsFailure("invalid_resource", "MSIS9602: The received 'resource' parameter is invalid.")
	}
	front.Detail(r.Context(), "resource", resource)
	token, err := h.tokens.Mint(Subject{
		TenantID: tenantADFS, ClientID: app.ClientID, PrincipalID: app.PrincipalID, Certain: form.Get("client_assertion") != "",
	}, resource, time.Duration(h.world.Settings().Entra.TokenLifetime))
	if err != nil {
		return Token{}, &failure{http.StatusInternalServerError, "server_error", 0, "The token cannot be signed."}
	}
	return token, nil
}

func (h *Handler) adfsAuthenticate(r *http.Request, app world.Application, form url.Values) *failure {
	if assertion := form.Get("client_assertion"); assertion != "" {
		token, _, err := jwt.NewParser().ParseUnverified(assertion, jwt.MapClaims{})
		// AD FS supports neither PSS nor SHA-256 thumbprints.
		if err != nil || form.Get("client_assertion_type") != assertionType || token.Header["alg"] != "RS256" || token.Header["x5t"] == nil {
			return adfsFailure("invalid_client", "MSIS9623: The client assertion is malformed: ADFS wants RS256 and x5t.")
		}
		if failure := h.checkCertificate(r, client{subject: Subject{ClientID: app.ClientID}, app: app}, tenantADFS, assertion, token); failure != nil {
			return adfsFailure("invalid_client", "MSIS9623: The client assertion was refused: "+failure.text)
		}
		return nil
	}
	if h.checkSecret(app, form.Get("client_secret")) != nil {
		return adfsFailure("invalid_client", "MSIS9622: Client authentication failed. Please verify the credential provided for client authentication is valid.")
	}
	return nil
}

func adfsFailure(kind, text string) *failure {
	return &failure{http.StatusBadRequest, kind, 0, text}
}

// failADFS writes an error as AD FS does: without codes and IDs.
func (h *Handler) failADFS(w http.ResponseWriter, f *failure) {
	writeJSON(w, f.status, map[string]string{"error": f.kind, "error_description": f.text})
}

// isADFS reports whether the first part of a path is that of AD FS.
func isADFS(tenant string) bool { return world.EqualFold(tenant, tenantADFS) }
