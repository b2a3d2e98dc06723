package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/agent/imds"
)

// fakeIMDS is a metadata service. It knows the identities of the node, issues tokens that look
// real, refuses what the real one refuses, and can be made to fail.
type fakeIMDS struct {
	address string

	mu         sync.Mutex
	identities map[string]bool
	requests   []*http.Request
	ill        func(http.ResponseWriter, *http.Request) bool // true: it has answered
	life       time.Duration
}

func (f *fakeIMDS) serve(t testing.TB) {
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.address = strings.TrimPrefix(server.URL, "http://")
}

func (f *fakeIMDS) has(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.identities[id] = true
}

func (f *fakeIMDS) fall(ill func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ill = ill
}

func (f *fakeIMDS) seen() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*http.Request(nil), f.requests...)
}

func (f *fakeIMDS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Clone(context.Background()))
	ill := f.ill
	f.mu.Unlock()
	if ill != nil && ill(w, r) {
		return
	}
	_, forwarded := r.Header["X-Forwarded-For"]
	q := r.URL.Query()
	switch {
	case r.Header.Get("Metadata") != "true" || forwarded:
		fail(w, 400, "invalid_request", "Required metadata header not specified")
	case q.Get("api-version") == "":
		fail(w, 400, "Bad request. api-version was not specified in the request", "")
	case r.URL.Path == imds.TokenPath:
		f.token(w, q)
	default:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Server", "IMDS/150.870.65.1854")
		_, _ = io.WriteString(w, `{"path":"`+r.URL.Path+`"}`)
	}
}

func fail(w http.ResponseWriter, status int, code, description string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
}

func (f *fakeIMDS) token(w http.ResponseWriter, q url.Values) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := ""
	for id := range f.identities {
		if q.Get("client_id") == clientID(id) || strings.EqualFold(q.Get("msi_res_id"), resourceID(id)) {
			name = id
		}
	}
	if name == "" {
		fail(w, 400, "invalid_request", "Identity not found")
		return
	}
	now := time.Now()
	expires := now.Add(f.life)
	claims, _ := json.Marshal(map[string]any{"oid": objectID(name), "tid": "tenant", "exp": expires.Unix(), "nbf": now.Unix(), "aud": q.Get("resource")})
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(map[string]string{
		"access_token": "e30." + base64.RawURLEncoding.EncodeToString(claims) + "." + strings.Repeat("s", 1200),
		"client_id":    clientID(name), "expires_in": fmt.Sprint(int(f.life.Seconds())), "expires_on": fmt.Sprint(expires.Unix()),
		"ext_expires_in": fmt.Sprint(int(f.life.Seconds())), "not_before": fmt.Sprint(now.Unix()),
		"resource": q.Get("resource"), "token_type": "Bearer", "future_field": "kept",
	})
}
