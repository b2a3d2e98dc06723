// Requests of processes of the host, on behalf of pods.

package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/reason"
)

// The headers that name the pod, as in v1.8.17.
const (
	podNameHeader      = "Podname"
	podNamespaceHeader = "Podns"
)

// The endpoints for processes of the host, as audit lines name them.
const (
	endpointTCP    = "host-tcp"
	endpointSocket = "host-socket"
)

// ServeHost answers at nmi-listen-address, where a process of the host requests a token on behalf
// of a pod, such as the Secrets Store CSI provider for Key Vault. Every process on the node's
// network can do that, and so can a pod through its probes and hooks, which the kubelet sends. It
// also answers the probes of v1.8.17.
func (s *Server) ServeHost(w http.ResponseWriter, r *http.Request) { s.serveHost(w, r, endpointTCP) }

// ServeHostSocket does the same on a Unix socket, whose listener accepts only root. It is no target
// for probes.
func (s *Server) ServeHostSocket(w http.ResponseWriter, r *http.Request) {
	s.serveHost(w, r, endpointSocket)
}

func (s *Server) serveHost(w http.ResponseWriter, r *http.Request, at string) {
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		s.cfg.Probes.ServeHTTP(w, r)
		return
	}
	route := imds.Classify(r.URL.EscapedPath())
	res := result{began: time.Now(), address: connections.OriginOf(r), endpoint: at}
	switch {
	case route.Kind != imds.HostToken:
		res.refuse(imds.NotFound())
		route = imds.Route{Label: "unknown"}
	case at == endpointSocket || s.admitTCP(r, &res):
		s.serveHostToken(w, r, &res)
	}
	s.finish(w, r, route, &res)
}

// admitTCP refuses requests that do not come from a process of this node, and those of the kubelet.
func (s *Server) admitTCP(r *http.Request, res *result) bool {
	switch {
	case !s.cfg.HostTokenTCP:
		res.refuse(reason.HostTCPOff.Refuse("tokens for processes of the host are not served over TCP: use the Unix socket of --host-token-socket"))
	case !res.address.IsLoopback():
		res.refuse(reason.NotLoopback.Refuse("only processes of the host may ask here, over loopback"))
	case fromKubelet(r):
		res.refuse(reason.FromKubelet.Refuse("this is a probe or a hook that the kubelet sends for a pod: pods ask the metadata service"))
	default:
		return true
	}
	return false
}

// fromKubelet reports whether the request is a probe or a hook that the kubelet sends for a pod. It
// is no protection, because a pod can choose the User-Agent: --host-token-tcp=false is.
func fromKubelet(r *http.Request) bool {
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "kube-probe/") || strings.HasPrefix(agent, "kube-lifecycle/")
}

func (s *Server) serveHostToken(w http.ResponseWriter, r *http.Request, res *result) {
	if refusal := checkGet(w, r); refusal != nil {
		res.refuse(refusal)
		return
	}
	key := types.NamespacedName{Namespace: r.Header.Get(podNamespaceHeader), Name: r.Header.Get(podNameHeader)}
	if key.Namespace == "" || key.Name == "" {
		res.refuse(reason.PodNotNamed.Refuse("name the pod by the headers podname and podns"))
		return
	}
	q, refusal := imds.ParseHostRequest(r.URL.RawQuery)
	if refusal != nil {
		res.refuse(refusal)
		return
	}
	s.obtain(r.Context(), q, res, func(ctx context.Context) (attest.Caller, error) {
		return s.named(ctx, key, res.began)
	})
	switch {
	case res.excepted:
		res.excepted = false
		res.refuse(reason.Excepted.Refuse("the pod is excepted by an AzurePodIdentityException: ask the metadata service itself"))
	case res.token != nil:
		writeHostToken(w, res)
	}
}

// named returns the pod that a process of the host names. It waits until the agent knows the
// cluster.
func (s *Server) named(ctx context.Context, key types.NamespacedName, began time.Time) (attest.Caller, error) {
	ctx, cancel := context.WithDeadline(ctx, began.Add(s.cfg.AttestLimit))
	defer cancel()
	if err := s.awaitCluster(ctx); err != nil {
		return attest.Caller{}, err
	}
	if caller, ok := s.cfg.Attester.Named(key); ok {
		return caller, nil
	}
	return attest.Caller{}, attest.ErrUnknown
}

// hostToken is the token in an answer to a process of the host. The fields, their order and their
// types are those of v1.8.17.
type hostToken struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	Type         string `json:"token_type"`
}

// writeHostToken writes the token as v1.8.17 does.
func writeHostToken(w http.ResponseWriter, res *result) {
	token, err := hostTokenOf(res.token.Body.Append(nil, res.began))
	if err != nil {
		res.token = nil
		res.refuse(reason.TokenUnreadable.Refuse("the token cannot be read").Because(err))
		return
	}
	answer, err := json.Marshal(struct {
		Token    hostToken `json:"token"`
		ClientID string    `json:"clientid"`
	}{token, res.identity.Spec.ClientID})
	if err != nil {
		res.token = nil
		res.refuse(reason.TokenUnreadable.Refuse("the token cannot be written").Because(err))
		return
	}
	w.Header().Set("Content-Type", imds.ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(answer) // an error means that the client disconnected
	res.status = http.StatusOK
}

// hostTokenOf parses a reply to a pod. For a multi-tenant application, whose reply is a list, it
// returns the token of its own tenant. The error does not quote the reply.
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
	token.RefreshToken = "" // empty in v1.8.17
	return token, nil
}
