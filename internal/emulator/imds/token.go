// The token path.

package imds

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// answer is the response to a token request: all fields in this order, all values strings.
type answer struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

func (h *Handler) token(q *request) {
	if !q.get() {
		return
	}
	resource, selector, ok := h.parameters(q)
	if !ok {
		return
	}
	vm := q.caller.VMID()
	limits := h.world.Settings().Limits
	if _, wait := h.world.Take("imds/identity/"+vm, limits.Identity); wait > 0 {
		q.throttle(wait)
		return
	}
	leave, free := h.world.Enter("imds/identity/"+vm, limits.IdentityAtOnce)
	if !free {
		q.throttle(time.Second)
		return
	}
	defer leave()
	subject, refusal := choose(q.caller, selector)
	if refusal != "" {
		q.refuse(http.StatusBadRequest, "invalid_request", refusal)
		return
	}
	front.Detail(q.r.Context(), "clientID", subject.ClientID)
	front.Detail(q.r.Context(), "resource", resource)
	token, err := h.mint(subject, resource)
	if err != nil {
		q.refuse(http.StatusInternalServerError, "unknown", "Failed to retrieve token from the Active directory.")
		return
	}
	in := strconv.Itoa(int(token.Expires.Sub(h.world.Now()) / time.Second))
	writeJSON(q.w, http.StatusOK, answer{
		AccessToken: token.Text, ClientID: subject.ClientID, ExpiresIn: in, ExtExpiresIn: in,
		ExpiresOn: strconv.FormatInt(token.Expires.Unix(), 10), NotBefore: strconv.FormatInt(token.Issued.Unix(), 10),
		Resource: resource, TokenType: "Bearer",
	})
}

// selector identifies the requested identity; at most one field is set.
type selector struct{ clientID, objectID, resourceID string }

// fields returns how many fields are set.
func (s selector) fields() int {
	set := 0
	for _, id := range []string{s.clientID, s.objectID, s.resourceID} {
		if id != "" {
			set++
		}
	}
	return set
}

// matches reports whether the selector names the identity.
func (s selector) matches(clientID, principalID, resourceID string) bool {
	return named(s.clientID, clientID) || named(s.objectID, principalID) || named(s.resourceID, resourceID)
}

// parameters reads the query. It ignores unknown parameters and empty selectors.
func (h *Handler) parameters(q *request) (resource string, s selector, ok bool) {
	version, ok := q.param("api-version")
	if !ok {
		return "", s, false
	}
	if !versionShape.MatchString(version) {
		q.refuse(http.StatusBadRequest, "invalid_request", "Required query variable 'api-version' is missing or invalid")
		return "", s, false
	}
	for _, p := range []struct {
		value *string
		names []string
	}{
		{&resource, []string{"resource"}},
		{&s.clientID, []string{"client_id"}},
		{&s.objectID, []string{"object_id", "principal_id"}},
		{&s.resourceID, []string{"msi_res_id", "mi_res_id"}},
	} {
		if *p.value, ok = q.param(p.names...); !ok {
			return "", s, false
		}
	}
	switch {
	case s.fields() > 1:
		q.refuse(http.StatusBadRequest, "invalid_request",
			"Only one of client_id, object_id and msi_res_id can be specified in the token request")
	case resource == "":
		q.refuse(http.StatusBadRequest, "invalid_request", "Required query variable 'resource' is missing")
	case strings.ContainsAny(resource, " \t\r\n") || len(resource) > 1024:
		q.refuse(http.StatusBadRequest, "invalid_resource", "AADSTS50001: The resource is malformed.")
	default:
		if _, known := h.world.KnownResource(resource); known {
			return resource, s, true
		}
		q.refuse(http.StatusBadRequest, "invalid_resource",
			"AADSTS500011: The resource principal named "+resource+" was not found in the tenant.")
	}
	return "", s, false
}

// IMDS's messages when the choice is ambiguous.
const (
	notFound = "Identity not found"
	several  = "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
)

// choose selects the identity: the requested one, otherwise the system-assigned one, otherwise the
// only one.
func choose(c world.Caller, s selector) (subject entra.Subject, refusal string) {
	system := entra.Subject{TenantID: c.TenantID, ResourceID: c.Machine.String(), MachineID: c.Machine.String(), Certain: true}
	if c.System != nil {
		system.ClientID, system.PrincipalID = c.System.ClientID, c.System.PrincipalID
	}
	user := func(id world.Identity) entra.Subject {
		return entra.Subject{
			TenantID: id.TenantID, ClientID: id.ClientID, PrincipalID: id.PrincipalID, ResourceID: id.ResourceID,
			MachineID: c.Machine.String(), Certain: true,
		}
	}
	if s == (selector{}) {
		switch {
		case c.System != nil:
			return system, ""
		case len(c.User) == 1:
			return user(c.User[0]), ""
		case len(c.User) > 1:
			return entra.Subject{}, several
		}
		return entra.Subject{}, notFound
	}
	for _, id := range c.User {
		if s.matches(id.ClientID, id.PrincipalID, id.ResourceID) {
			return user(id), ""
		}
	}
	if c.System != nil && s.matches(c.System.ClientID, c.System.PrincipalID, "") {
		return system, ""
	}
	return entra.Subject{}, notFound
}

func named(selector, id string) bool { return selector != "" && world.EqualFold(selector, id) }

// cacheKey identifies a cached token.
type cacheKey struct{ machine, principal, resource string }

// maxCache bounds the tokens kept; the cache is cleared when it is full.
const maxCache = 10000

// mint issues a token, or returns the previous one while more than half of its lifetime is left, as
// Azure does.
func (h *Handler) mint(s entra.Subject, resource string) (entra.Token, error) {
	settings := h.world.Settings().IMDS
	lifetime := time.Duration(settings.TokenLifetime)
	key := cacheKey{s.MachineID, s.PrincipalID, resource}
	h.mu.Lock()
	defer h.mu.Unlock()
	if token, ok := h.cache[key]; ok && settings.CacheTokens && token.Expires.Sub(token.Issued) == lifetime &&
		token.Expires.Sub(h.world.Now()) > lifetime/2 {
		return token, nil
	}
	token, err := h.tokens.Mint(s, resource, lifetime)
	if err != nil {
		return entra.Token{}, err
	}
	if len(h.cache) >= maxCache {
		clear(h.cache)
	}
	h.cache[key] = token
	return token, nil
}
