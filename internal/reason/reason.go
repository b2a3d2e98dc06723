// Package reason is the one table of reasons for which podid refuses something: a request for a
// token, the use of an identity, or its assignment to a node.
//
// Each reason has a stable code, PID-101 to PID-699, that Events, conditions, audit lines and
// responses carry. Codes and names are contracts: neither is ever changed or reused. Codes are
// grouped by the step that refuses:
//
//	1xx  the request and its caller
//	2xx  labels, bindings and identities
//	3xx  the policy of the cluster's owner
//	4xx  assigning the identity to the node on Azure
//	5xx  the source of tokens
//	6xx  the node agent itself
//
// docs/reasons.md is generated from the table: go test ./internal/reason -update.
package reason

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	v1 "github.com/podid-io/podid/api/v1"
)

// Reason is a row of the table; its value is the number in its code. The zero Reason is None. Only
// the constants of this package are reasons: a test keeps others from converting numbers.
type Reason uint16

// None is no reason: nothing is refused.
const None Reason = 0

// Code returns the stable code, such as PID-201.
func (r Reason) Code() string { return fmt.Sprintf("%s%d", prefix, r) }

// Name returns the one-word name used in Events, metrics, status.reason and audit lines. Several
// reasons may share a name. The name of None is "".
func (r Reason) Name() string {
	if r == None {
		return ""
	}
	return table[r].name
}

// String returns code and name, for tests and debugging.
func (r Reason) String() string { return r.Code() + " " + r.Name() }

// Status returns the HTTP status of a response with this reason, 0 if there is no such response.
func (r Reason) Status() int { return table[r].status }

// Event reports whether the node agent emits an Event on the pod. It does so only if a person
// responsible for the pod can fix the cause.
func (r Reason) Event() bool { return table[r].event }

// Transient reports whether the same request may succeed later without any change.
func (r Reason) Transient() bool { return table[r].actor == noAction || table[r].transient }

// Refuse returns a refusal for this reason. A format without args is the message.
func (r Reason) Refuse(format string, args ...any) *Refusal {
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	return &Refusal{Reason: r, Message: message}
}

// Text appends the code to a message for people. A message that already has a code keeps it: that
// code is closer to the cause.
func (r Reason) Text(message string) string {
	if r == None || message == "" || codeAt(message) >= 0 {
		return message
	}
	return message + " (" + r.Code() + ")"
}

// All returns all reasons in the order of their codes.
func All() []Reason {
	all := make([]Reason, 0, len(table))
	for r := range table {
		all = append(all, r)
	}
	slices.Sort(all)
	return all
}

const (
	prefix     = "PID-"
	codeSuffix = " (PID-000)"
)

// codeAt returns the index of the code at the end of the text, -1 when there is none.
func codeAt(text string) int {
	at := len(text) - len(codeSuffix)
	if at < 0 || !strings.HasPrefix(text[at:], " ("+prefix) || !strings.HasSuffix(text, ")") {
		return -1
	}
	return at
}

// Cut shortens a text to at most limit bytes without splitting a character. It keeps a code at the
// end of the text.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	code := ""
	if at := codeAt(text); at >= 0 {
		text, code = text[:at], text[at:]
	}
	const ellipsis = "…"
	end := max(0, limit-len(ellipsis)-len(code))
	for end > 0 && end < len(text) && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:min(end, len(text))] + ellipsis + code
}

// Refusal is a refused request, use or assignment, with the reason and the objects in question. It
// is an error. It is shared once returned and must not be changed then.
type Refusal struct {
	Reason Reason
	// Message is one sentence for a person: what happened, and what to do. It contains no secrets,
	// only shortened IDs, and names only objects that the pod's owner may know of.
	Message string
	// Cause is the underlying error, for logs and audit lines, nil when there is none.
	Cause error
	// RetryAfter is when to try again, zero when that is not known.
	RetryAfter time.Duration
	// Identity and Binding are the objects in question, nil when there are none.
	Identity *v1.AzureIdentity
	Binding  *v1.AzureIdentityBinding
	// Relayed is the status and error code of the metadata service's own refusal, if it is passed on.
	Relayed Answer
}

// AsRefusal returns the refusal in an error, or nil.
func AsRefusal(err error) *Refusal {
	r, _ := errors.AsType[*Refusal](err)
	return r
}

// About sets the objects in question of a new refusal.
func (r *Refusal) About(id *v1.AzureIdentity, b *v1.AzureIdentityBinding) *Refusal {
	r.Identity, r.Binding = id, b
	return r
}

// Because sets the cause of a new refusal.
func (r *Refusal) Because(cause error) *Refusal {
	r.Cause = cause
	return r
}

// After sets when to try again after a new refusal.
func (r *Refusal) After(d time.Duration) *Refusal {
	r.RetryAfter = d
	return r
}

// Answer is the status and body of an HTTP error response.
type Answer struct {
	Status      int
	OAuth       string // error code, as OAuth has it
	Description string
}

// Answer returns the response for the refusal. The description has the code, unless clients compare
// it literally.
func (r *Refusal) Answer() Answer {
	row := table[r.Reason]
	a := r.Relayed
	if a.Status == 0 {
		a = Answer{Status: row.status, OAuth: row.oauth}
	}
	a.Description = r.Message
	if !row.verbatim {
		a.Description = r.Text()
	}
	return a
}

// Transient reports whether the same request may succeed later without any change.
func (r *Refusal) Transient() bool {
	switch r.Relayed.Status {
	case 0:
		return r.Reason.Transient()
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests:
		return true
	default:
		return r.Relayed.Status >= http.StatusInternalServerError
	}
}

// Text returns the message with the code.
func (r *Refusal) Text() string { return r.Reason.Text(r.Message) }

// Detail returns the text of the cause, "" when there is none.
func (r *Refusal) Detail() string {
	if r.Cause == nil {
		return ""
	}
	return r.Cause.Error()
}

// Error returns the message and the cause.
func (r *Refusal) Error() string {
	if r.Cause == nil {
		return r.Message
	}
	return r.Message + ": " + r.Cause.Error()
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }
