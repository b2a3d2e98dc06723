// What processes of the host ask on loopback.

package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
)

// Headers that name the pod a host process asks for, as v1.8.17 reads them.
const (
	podNameHeader      = "Podname"
	podNamespaceHeader = "Podns"
)

// ServeHost answers on nmi-listen-address: a process of the host (the flexvolume
// driver of Key Vault was one) asks for a token on behalf of a pod. Whoever may
// use the node's network may do that, as in v1.8.17; a pod with a network of
// its own cannot. It also answers the probes.
func (s *Server) ServeHost(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		s.cfg.Probes.ServeHTTP(w, r)
		return
	}
	route := imds.Classify(r.URL.EscapedPath())
	res := result{began: time.Now(), address: callerAddress(r)}
	if route.Kind == imds.HostToken {
		s.serveHostToken(w, r, &res)
	} else {
		res.problem, res.reason = imds.NotFound(), reasonRejected
		route = imds.Route{Label: "unknown"}
	}
	s.finish(w, r, route, &res)
}

func (s *Server) serveHostToken(w http.ResponseWriter, r *http.Request, res *result) {
	if !res.address.IsLoopback() {
		res.refuse(http.StatusForbidden, "NotLoopback", "forbidden", "only processes of the host may ask here, over loopback", "")
		return
	}
	if problem := plainGet(w, r); problem != nil {
		res.problem, res.reason = problem, reasonRejected
		return
	}
	key := types.NamespacedName{Namespace: r.Header.Get(podNamespaceHeader), Name: r.Header.Get(podNameHeader)}
	if key.Namespace == "" || key.Name == "" {
		res.refuse(http.StatusBadRequest, "BadRequest", "invalid_request", "name the pod by the headers podname and podns", "")
		return
	}
	q, problem := imds.ParseHostRequest(r.URL.RawQuery)
	if problem != nil {
		res.problem, res.reason = problem, "BadRequest"
		return
	}
	s.obtain(r.Context(), q, res, func(context.Context) (attest.Caller, error) {
		select {
		case <-s.cfg.Known:
		default:
			return attest.Caller{}, errNotKnown
		}
		if caller, ok := s.cfg.Attester.Named(key); ok {
			return caller, nil
		}
		return attest.Caller{}, attest.ErrUnknown
	})
	switch {
	case res.plain:
		res.plain = false
		res.refuse(http.StatusForbidden, "Excepted", "forbidden", "the pod is excepted by an AzurePodIdentityException: ask the metadata service itself", "")
	case res.token != nil:
		writeHostToken(w, res)
	}
}

// writeHostToken writes the token in the form of v1.8.17, that of the library
// adal: the same fields, with numbers for the times.
func writeHostToken(w http.ResponseWriter, res *result) {
	var reply struct {
		AccessToken string      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"`
		ExpiresOn   json.Number `json:"expires_on"`
		NotBefore   json.Number `json:"not_before"`
		Resource    string      `json:"resource"`
		Type        string      `json:"token_type"`
	}
	body := res.token.Body.Append(nil, res.began)
	if len(body) > 0 && body[0] == '[' {
		// Of a multi-tenant application, the token for its own tenant.
		var replies []json.RawMessage
		if err := json.Unmarshal(body, &replies); err == nil && len(replies) > 0 {
			body = replies[0]
		}
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		res.refuse(http.StatusInternalServerError, "SourceFailed", "server_error", "the token cannot be read", "")
		return
	}
	type adalToken struct {
		AccessToken  string      `json:"access_token"`
		RefreshToken string      `json:"refresh_token"`
		ExpiresIn    json.Number `json:"expires_in"`
		ExpiresOn    json.Number `json:"expires_on"`
		NotBefore    json.Number `json:"not_before"`
		Resource     string      `json:"resource"`
		Type         string      `json:"token_type"`
	}
	answer, err := json.Marshal(struct {
		Token    adalToken `json:"token"`
		ClientID string    `json:"clientid"`
	}{adalToken{reply.AccessToken, "", reply.ExpiresIn, reply.ExpiresOn, reply.NotBefore, reply.Resource, reply.Type}, res.identity.Spec.ClientID})
	if err != nil {
		res.refuse(http.StatusInternalServerError, "SourceFailed", "server_error", "the token cannot be written", "")
		return
	}
	w.Header().Set("Content-Type", imds.ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(http.StatusOK)
	// A client that went away needs no answer.
	_, _ = w.Write(answer)
	res.status = http.StatusOK
}
