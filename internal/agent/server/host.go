// What processes of the host ask on loopback.

package server

import (
	"context"
	"encoding/json"
	"errors"
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

// hostToken is the token in an answer to a process of the host. Its fields and their order are
// v1.8.17's, and all of them are strings.
type hostToken struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	Type         string `json:"token_type"`
}

// writeHostToken writes the token in the form of v1.8.17.
func writeHostToken(w http.ResponseWriter, res *result) {
	token, err := hostTokenOf(res.token.Body.Append(nil, res.began))
	if err != nil {
		res.token = nil
		res.refuse(http.StatusInternalServerError, "SourceFailed", "server_error", "the token cannot be read", err.Error())
		return
	}
	answer, err := json.Marshal(struct {
		Token    hostToken `json:"token"`
		ClientID string    `json:"clientid"`
	}{token, res.identity.Spec.ClientID})
	if err != nil {
		res.token = nil
		res.refuse(http.StatusInternalServerError, "SourceFailed", "server_error", "the token cannot be written", err.Error())
		return
	}
	w.Header().Set("Content-Type", imds.ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(http.StatusOK)
	// A client that went away needs no answer.
	_, _ = w.Write(answer)
	res.status = http.StatusOK
}

// hostTokenOf reads a reply to a pod. Of a multi-tenant application, whose reply is a list, it
// returns the token for its own tenant. The error has no part of the reply.
func hostTokenOf(body []byte) (hostToken, error) {
	var token hostToken
	if len(body) > 0 && body[0] == '[' {
		var replies []json.RawMessage
		if err := json.Unmarshal(body, &replies); err != nil || len(replies) == 0 {
			return token, errors.New("the list of tokens has no first entry")
		}
		body = replies[0]
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return token, errors.New("the reply does not have the fields of a token")
	}
	token.RefreshToken = "" // as v1.8.17, which had none
	return token, nil
}
