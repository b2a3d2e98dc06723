// Package imds is the emulated Azure Instance Metadata Service. It identifies the calling VM by the
// source address of the connection, and issues tokens for the identities that are on that VM at
// that moment.
package imds

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// minter signs tokens; entra.Tokens does.
type minter interface {
	Mint(s entra.Subject, resource string, lifetime time.Duration) (entra.Token, error)
}

// Handler serves IMDS.
type Handler struct {
	world  *world.World
	tokens minter

	mu    sync.Mutex // guards cache
	cache map[cacheKey]entra.Token
}

// NewHandler returns a handler for the VMs of the world, with tokens of m.
func NewHandler(w *world.World, m minter) *Handler {
	return &Handler{world: w, tokens: m, cache: map[cacheKey]entra.Token{}}
}

// tokenPath is the only path under /metadata/identity that clients normally use.
const tokenPath = "/metadata/identity/oauth2/token"

// request is a request with its parsed properties.
type request struct {
	w      http.ResponseWriter
	r      *http.Request
	path   string // normalized
	query  url.Values
	caller world.Caller
}

// ServeHTTP checks the Metadata header, X-Forwarded-For and the caller, in this order, and then the
// requirements of the path.
//
// Paths are matched leniently: case, doubled slashes, dots, backslashes and ;parameters make no
// difference. Whether the real service does the same is not documented. The emulator does it so
// that a proxy that can be bypassed with an unusual spelling visibly leaks.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "IMDS/150.870.65.1854") // clients check it, so a proxy must not forward it
	q := &request{w: w, r: r, path: normalise(r.URL.Path)}
	if q.path == "/metadata" || !strings.HasPrefix(q.path, "/metadata/") {
		q.refuse(http.StatusNotFound, "not_found", "There is nothing at this path.")
		return
	}
	if !world.EqualFold(strings.TrimSpace(r.Header.Get("Metadata")), "true") && q.path != "/metadata/versions" {
		q.refuse(http.StatusBadRequest, "invalid_request", "Required metadata header not specified")
		return
	}
	if len(r.Header.Values("X-Forwarded-For")) > 0 {
		q.refuse(http.StatusBadRequest, "invalid_request", "The header X-Forwarded-For is not allowed: IMDS is not for proxies")
		return
	}
	var err error
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		q.refuse(http.StatusBadRequest, "invalid_request", "The query is malformed")
		return
	}
	if !h.identify(q) {
		return
	}
	if q.path == tokenPath {
		h.token(q)
		return
	}
	h.metadata(q)
}

// identify sets the calling VM.
func (h *Handler) identify(q *request) bool {
	remote, err := netip.ParseAddrPort(q.r.RemoteAddr)
	if err == nil {
		var ok bool
		if q.caller, ok = h.world.Caller(remote.Addr()); !ok && remote.Addr() == localAddress(q.r) {
			q.caller, ok = h.world.Caller(netip.IPv6Loopback())
		}
		if ok {
			front.Caller(q.r.Context(), q.caller.Name())
			return true
		}
	}
	q.refuse(http.StatusUnauthorized, "unknown_source",
		"No VM of the world has the address "+q.r.RemoteAddr+"; loopback callers need settings.imds.defaultMachine")
	return false
}

// localAddress returns the address at which the request arrived. A caller with the same address is
// on this machine, like one with a loopback address. This happens with 169.254.169.254 on lo.
func localAddress(r *http.Request) netip.Addr {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return netip.Addr{}
	}
	address, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return netip.Addr{}
	}
	return address.Addr()
}

// The result is the path as this service understands it.
func normalise(p string) string {
	p = strings.ReplaceAll(p, `\`, "/")
	parts := strings.Split(p, "/")
	for i, part := range parts {
		parts[i], _, _ = strings.Cut(part, ";")
	}
	p = strings.Join(parts, "/")
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return world.Fold(path.Clean(p))
}

// get rejects every method except GET.
func (q *request) get() bool {
	if q.r.Method == http.MethodGet {
		return true
	}
	q.w.Header().Set("Allow", http.MethodGet)
	q.refuse(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed at this path.")
	return false
}

// param returns an optional parameter. It fails if the parameter occurs more than once. The name is
// case-insensitive.
func (q *request) param(names ...string) (value string, ok bool) {
	found := 0
	for key, values := range q.query {
		for _, name := range names {
			if world.EqualFold(key, name) {
				found += len(values)
				value = values[0]
			}
		}
	}
	if found > 1 {
		q.refuse(http.StatusBadRequest, "invalid_request", "The query parameter '"+names[0]+"' is given more than once")
		return "", false
	}
	return value, true
}

var versionShape = regexp.MustCompile(`^20\d\d-\d\d-\d\d$`)

func (q *request) refuse(status int, code, text string) {
	front.Detail(q.r.Context(), "error", text)
	writeError(q.w, status, code, text)
}

func writeError(w http.ResponseWriter, status int, code, text string) {
	writeJSON(w, status, map[string]string{"error": code, "error_description": text})
}

// WriteError responds with a fault in IMDS's format.
func (h *Handler) WriteError(w http.ResponseWriter, status int, code, message string) {
	if code == "" {
		code = "unknown"
		if status == http.StatusBadRequest {
			code = "invalid_request"
		}
	}
	writeError(w, status, code, message)
}

func (q *request) throttle(wait time.Duration) {
	q.w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	q.refuse(http.StatusTooManyRequests, "too_many_requests", "Request rate limit exceeded")
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body) // compact: some clients search the text instead of parsing it
	if err != nil {                 // strings, and maps of them: cannot fail
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
