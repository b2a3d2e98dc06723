// What the log has of one decision.

package audit

import (
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

// Decision is what was decided.
type Decision string

// The decisions.
const (
	Issued   Decision = "issued"
	Refused  Decision = "refused"
	PassedOn Decision = "passed on"
)

// Entry is a decision about one request.
type Entry struct {
	Time     time.Time
	Decision Decision
	Status   int
	Reason   reason.Reason
	// Message is in the response, Detail is for the operator only.
	Message, Detail string
	Caller          attest.Caller
	Origin          attest.Origin
	// Endpoint is where a process of the host asked for the pod, empty for the pods' own endpoint.
	Endpoint string
	Identity *v1.AzureIdentity // nil if there is none
	Resource string
	// Token is how an issued token was obtained.
	Token string
	// RequestID is the client's own.
	RequestID string
	Duration  time.Duration
}

// decision returns what the entry is compared by.
func (e *Entry) decision() decision {
	d := decision{origin: e.Origin, caller: e.Caller, reason: e.Reason, endpoint: e.Endpoint, status: e.Status}
	if e.Decision == Issued {
		// Not for refusals: a pod could fill the log by asking for ever new resources.
		d.resource = e.Resource
	}
	if e.Identity != nil {
		d.namespace, d.identity = e.Identity.Namespace, e.Identity.Name
	}
	return d
}

// jsonLine is a line of the log.
type jsonLine struct {
	Time           time.Time `json:"time"`
	Log            string    `json:"log"` // always "audit", which other lines do not have
	Decision       Decision  `json:"decision"`
	Status         int       `json:"status"`
	Reason         string    `json:"reason,omitempty"` // its name
	Code           string    `json:"code,omitempty"`
	Message        string    `json:"message,omitempty"`
	Detail         string    `json:"detail,omitempty"`
	Namespace      string    `json:"namespace,omitempty"`
	Pod            string    `json:"pod,omitempty"`
	UID            string    `json:"uid,omitempty"`
	ServiceAccount string    `json:"serviceAccount,omitempty"`
	Address        string    `json:"address"`
	Capture        string    `json:"capture,omitempty"` // "pod", empty on the wire
	Endpoint       string    `json:"endpoint,omitempty"`
	Identity       string    `json:"identity,omitempty"` // NAMESPACE/NAME
	ClientID       string    `json:"clientID,omitempty"` // shortened
	Resource       string    `json:"resource,omitempty"`
	Source         string    `json:"source,omitempty"`
	Token          string    `json:"token,omitempty"`
	RequestID      string    `json:"requestID,omitempty"`
	Seconds        float64   `json:"seconds"`
}

func (e *Entry) line() jsonLine {
	l := jsonLine{
		Time: e.Time.UTC(), Log: "audit", Decision: e.Decision, Status: e.Status,
		Reason: e.Reason.Name(), Message: e.Message, Detail: e.Detail,
		Namespace: e.Caller.Namespace, Pod: e.Caller.Name, UID: string(e.Caller.UID), ServiceAccount: e.Caller.ServiceAccount,
		Endpoint: e.Endpoint, Resource: maskToken(e.Resource), Token: e.Token, RequestID: validRequestID(e.RequestID),
		Seconds: e.Duration.Seconds(),
	}
	if e.Reason != reason.None {
		l.Code = e.Reason.Code()
	}
	if e.Origin.IsValid() { // not for a Unix socket
		l.Address = e.Origin.String()
	}
	if e.Origin.Proven() {
		l.Capture = "pod"
	}
	if id := e.Identity; id != nil {
		l.Identity, l.ClientID, l.Source = id.Namespace+"/"+id.Name, observe.ShortID(id.Spec.ClientID), sourceOf(id.Spec.Type)
	}
	if e.Decision == PassedOn {
		l.Source = sourceOf(v1.UserAssignedMSI)
	}
	return l
}

// maskToken masks a token that a client sent as the resource.
func maskToken(resource string) string {
	if strings.HasPrefix(resource, "eyJ") {
		return observe.NewSecret(resource).String()
	}
	return resource
}

const (
	// maxRequestID bounds a client's request ID. A GUID has 36 characters.
	maxRequestID = 64
	// requestIDCharacters are those of a request ID.
	requestIDCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
)

// validRequestID returns the request ID, or "" if it is too long or has unusual characters.
func validRequestID(id string) string {
	if len(id) > maxRequestID || strings.Trim(id, requestIDCharacters) != "" {
		return ""
	}
	return id
}

// sourceOf names what issues the tokens of a type of identity.
func sourceOf(t v1.IdentityType) string {
	switch t {
	case v1.UserAssignedMSI:
		return "imds"
	case v1.ServicePrincipal:
		return "secret"
	case v1.ServicePrincipalCertificate:
		return "certificate"
	case v1.Federated:
		return "federation"
	default:
		return "unknown"
	}
}
