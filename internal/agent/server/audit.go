// The audit log: who got which token, and who was refused and why.

package server

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/turns"
)

// AuditMode is which decisions the audit log has.
type AuditMode string

// The modes.
const (
	AuditOff AuditMode = "off"
	// AuditChanges has the first of equal decisions, and one again when it still
	// occurs ten minutes later. Metrics count the others.
	AuditChanges AuditMode = "changes"
	// AuditAll has every decision: one line a request.
	AuditAll AuditMode = "all"
)

// ParseAuditMode reads a mode as the command line has it.
func ParseAuditMode(s string) (AuditMode, error) {
	switch m := AuditMode(ascii.ToLower(s)); m {
	case AuditOff, AuditChanges, AuditAll:
		return m, nil
	default:
		return "", fmt.Errorf("audit log %q: use %s, %s or %s", s, AuditOff, AuditChanges, AuditAll)
	}
}

// Audit writes one line of JSON for each decision about a token. No line holds a
// token, and client ids are shortened. Requests never wait for the writer: lines
// that it does not take in time are dropped and counted, those of the pod first that
// has most, in the namespace that has most.
type Audit struct {
	mode    AuditMode
	dropped func()
	ready   chan struct{} // has a value while there may be lines

	linesMu sync.Mutex
	lines   list.List                   // of *waitingLine, in the order of their decisions
	places  *turns.Queue[*list.Element] // which lines may wait

	seenMu sync.RWMutex
	seen   map[string]map[decision]time.Time // by namespace of the caller
	n      int                               // decisions in seen
}

// waitingLine is a line that waits for the writer.
type waitingLine struct {
	text  []byte
	place *turns.Entry[*list.Element]
}

// decision is what equal lines have in common.
type decision struct {
	address                               addr
	caller                                attest.Caller
	namespace, identity, resource, reason string
	endpoint                              endpoint
	status                                int
}

const (
	// sayAgain is when an equal decision is worth a line again.
	sayAgain = 10 * time.Minute
	// maxSeen bounds what is remembered; a node has some hundred pods with a
	// handful of resources each.
	maxSeen = 8192
	// maxLines is how many lines wait for the writer: some 500 bytes each.
	maxLines = 4096
	// maxRequestID is the longest request id of a client that goes into a line; a
	// GUID has 36 characters.
	maxRequestID = 64
)

// NewAudit returns an audit log. dropped is called for each line that is lost.
func NewAudit(mode AuditMode, dropped func()) *Audit {
	return &Audit{
		mode: mode, dropped: dropped, ready: make(chan struct{}, 1), places: turns.NewQueue[*list.Element](maxLines, maxLines),
		seen: map[string]map[decision]time.Time{},
	}
}

// Run writes lines to w until ctx ends, and then those that wait.
func (a *Audit) Run(ctx context.Context, w io.Writer) {
	for {
		select {
		case <-a.ready:
		case <-ctx.Done():
		}
		for line := a.next(); line != nil; line = a.next() {
			a.write(w, line)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// put adds a line of a pod.
func (a *Audit) put(pod types.NamespacedName, text []byte) {
	if a.putLocked(pod, text) {
		a.dropped()
	}
	select {
	case a.ready <- struct{}{}:
	default: // it is known already
	}
}

// putLocked reports whether the line, or another one for its sake, was dropped.
func (a *Audit) putLocked(pod types.NamespacedName, text []byte) (dropped bool) {
	a.linesMu.Lock()
	defer a.linesMu.Unlock()
	line := &waitingLine{text: text}
	at := a.lines.PushBack(line)
	place, gaveWay := a.places.Push(pod.Namespace, pod.Name, at)
	switch {
	case place == nil:
		a.lines.Remove(at)
	case gaveWay != nil:
		a.lines.Remove(gaveWay.Item)
	}
	line.place = place
	return place == nil || gaveWay != nil
}

// next removes the oldest line, and returns nil when there is none.
func (a *Audit) next() []byte {
	a.linesMu.Lock()
	defer a.linesMu.Unlock()
	at := a.lines.Front()
	if at == nil {
		return nil
	}
	line, ok := a.lines.Remove(at).(*waitingLine)
	if !ok {
		return nil
	}
	a.places.Remove(line.place)
	return line.text
}

func (a *Audit) write(w io.Writer, line []byte) {
	if _, err := w.Write(line); err != nil {
		a.dropped()
	}
}

// auditLine is one line.
type auditLine struct {
	Time           time.Time `json:"time"`
	Log            string    `json:"log"` // always "audit", to tell it from other lines
	Decision       string    `json:"decision"`
	Status         int       `json:"status"`
	Reason         string    `json:"reason,omitempty"`
	Message        string    `json:"message,omitempty"`
	Detail         string    `json:"detail,omitempty"`
	Namespace      string    `json:"namespace,omitempty"`
	Pod            string    `json:"pod,omitempty"`
	UID            string    `json:"uid,omitempty"`
	ServiceAccount string    `json:"serviceAccount,omitempty"`
	Address        string    `json:"address"`
	Endpoint       endpoint  `json:"endpoint,omitempty"` // where a process of the host asked for the pod
	Identity       string    `json:"identity,omitempty"` // NAMESPACE/NAME
	ClientID       string    `json:"clientID,omitempty"` // shortened
	Resource       string    `json:"resource,omitempty"`
	Source         string    `json:"source,omitempty"`
	Token          string    `json:"token,omitempty"`
	RequestID      string    `json:"requestID,omitempty"`
	Seconds        float64   `json:"seconds"`
}

// The decisions.
const (
	decisionIssued   = "issued"
	decisionRefused  = "refused"
	decisionPassedOn = "passed on"
)

// answered takes the answer to a request.
func (a *Audit) answered(r *http.Request, route imds.Route, res *result, took time.Duration) {
	if a == nil || a.mode == AuditOff {
		return
	}
	d := decision{address: res.address, endpoint: res.endpoint, status: res.status, reason: res.reason, caller: res.caller}
	if res.token != nil {
		// Of refusals one line must do for all resources: a pod could fill the
		// log by asking for ever new ones.
		d.resource = res.resource
	}
	if res.identity != nil {
		d.namespace, d.identity = res.identity.Namespace, res.identity.Name
	}
	if a.mode != AuditAll && !a.worth(d, res.began) {
		return
	}
	line, err := json.Marshal(res.line(r, route, took))
	if err != nil {
		a.dropped()
		return
	}
	a.put(res.caller.NamespacedName, append(line, '\n'))
}

func (res *result) line(r *http.Request, route imds.Route, took time.Duration) auditLine {
	l := auditLine{
		Time: res.began.UTC(), Log: "audit", Decision: decisionRefused, Status: res.status, Reason: res.reason, Detail: res.detail,
		Namespace: res.caller.Namespace, Pod: res.caller.Name, UID: string(res.caller.UID), ServiceAccount: res.caller.ServiceAccount,
		Address: addressText(res.address), Endpoint: res.endpoint, Resource: printableResource(res.resource), RequestID: requestID(r), Seconds: took.Seconds(),
	}
	if id := res.identity; id != nil {
		l.Identity, l.ClientID, l.Source = id.Namespace+"/"+id.Name, observe.ShortID(id.Spec.ClientID), sourceOf(id.Spec.Type)
	}
	switch {
	case res.token != nil:
		l.Decision, l.Token = decisionIssued, tokenFrom(res.outcome)
	case res.problem != nil:
		l.Message = res.problem.Description
	default:
		l.Decision, l.Source = decisionPassedOn, sourceOf(v1.UserAssignedMSI)
		if route.Kind == imds.PassThrough {
			l.Resource = route.Label
		}
	}
	return l
}

// addressText is the address of a line, empty for a connection over the Unix socket.
func addressText(a addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// worth reports whether the decision is worth a line, and records that it was made.
func (a *Audit) worth(d decision, now time.Time) bool {
	a.seenMu.RLock()
	recent := a.sawRecently(d, now)
	a.seenMu.RUnlock()
	if recent {
		return false
	}
	a.seenMu.Lock()
	defer a.seenMu.Unlock()
	if a.sawRecently(d, now) {
		return false
	}
	if a.n >= maxSeen {
		a.forgetMost()
	}
	own := a.seen[d.caller.Namespace]
	if own == nil {
		own = map[decision]time.Time{}
		a.seen[d.caller.Namespace] = own
	}
	if _, known := own[d]; !known {
		a.n++
	}
	d.resource = strings.Clone(d.resource) // or a whole query would be kept with it
	own[d] = now
	return true
}

func (a *Audit) sawRecently(d decision, now time.Time) bool {
	last, ok := a.seen[d.caller.Namespace][d]
	return ok && now.Sub(last) < sayAgain
}

// forgetMost forgets the decisions about the namespace that has most of them.
func (a *Audit) forgetMost() {
	var most string
	for namespace, decisions := range a.seen {
		if len(decisions) > len(a.seen[most]) {
			most = namespace
		}
	}
	a.n -= len(a.seen[most])
	delete(a.seen, most)
}

// printableResource hides what is no resource but a token that went into the
// wrong parameter.
func printableResource(s string) string {
	if strings.HasPrefix(s, "eyJ") {
		return observe.NewSecret(s).String()
	}
	return s
}

// requestID is the client's own, by which its log and ours can be brought
// together; "" when it is not made as such ids are.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Ms-Client-Request-Id")
	if len(id) > maxRequestID {
		return ""
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return ""
		}
	}
	return id
}

// sourceOf names what mints the tokens of a kind of identity.
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

// tokenFrom tells where a token came from: from memory, minted for this request
// or for another at the same time, or from memory because it could not be minted.
func tokenFrom(o token.Outcome) string {
	switch o {
	case token.Miss:
		return "minted"
	case token.Shared:
		return "shared"
	case token.Stale:
		return "stale"
	default:
		return "cached"
	}
}
