// What an error of Azure Resource Manager says: its status, its code and the resource IDs that it
// names. Messages are only searched for resource IDs, because Azure names them nowhere else.

package compute

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/podid-io/podid/internal/ascii"
)

// refusal is an error response of ARM. It wraps the SDK's error, if there is one.
type refusal struct {
	act        string // the attempted action: reads or writes
	group      Group
	status     int    // HTTP status; for a failed long-running operation that of its poll (often 200)
	code       string // ARM's error code
	message    string // ARM's whole message
	retryAfter time.Duration
	details    []string // the codes of the error's details
	identities []string // resource IDs of user-assigned identities that ARM names as the cause
	runsAs     string   // client ID that podid signs in with, if known
	sent       bool     // a request of the same Patch may have reached Azure and was not refused
	err        error
}

// The actions.
const (
	reads  = "read identities of"
	writes = "patch identities of"
)

// messageLimit bounds how many bytes of ARM's message go into an error, and so into logs, Events
// and objects.
const messageLimit = 700

// Error returns "act group: code: message (remedy)" on one line.
func (r *refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: ", r.act, r.group)
	switch {
	case r.notARM():
		b.WriteString(r.notARMMessage())
	case r.code == "" && r.message == "":
		fmt.Fprintf(&b, "Azure answered HTTP %d without a reason", r.status)
	default:
		b.WriteString(strings.Trim(r.code+": "+cut(oneLine(r.message)), ": "))
	}
	if remedy := r.remedy(); remedy != "" {
		b.WriteString(" (" + remedy + ")")
	}
	return b.String()
}

// Unwrap returns the SDK's error.
func (r *refusal) Unwrap() error { return r.err }

// principalID matches a GUID that is not part of a path: ARM's messages identify clients and
// objects by GUID. For a GUID called a subscription, the match includes that word.
var principalID = regexp.MustCompile(`(?i)` + ofSubscription + `|(?:^|[^/0-9a-f-])` + guid)

// The parts of the expressions that find GUIDs in ARM's messages.
const (
	guid           = `[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`
	ofSubscription = `\bsubscriptions?(?:[ _-]?ids?)?['"]?(?:\s+(?:with|is|of|id))*\s*[:=]?\s*['"(]?` + guid
)

// shortened keeps that many characters of the GUID at the end of a match. It keeps a subscription's
// whole GUID, which an operator needs to find it and which identifies no client.
func shortened(match string, kept int) string {
	const length = 36
	if strings.HasPrefix(ascii.ToLower(match), "subscription") {
		return match
	}
	return match[:len(match)-length+kept] + "…"
}

// oneLine puts ARM's message on one line for logs and shortens client IDs to eight characters.
func oneLine(message string) string {
	return principalID.ReplaceAllStringFunc(strings.Join(strings.Fields(message), " "), func(match string) string {
		return shortened(match, 8)
	})
}

// cut shortens to messageLimit without splitting a character.
func cut(s string) string {
	if len(s) <= messageLimit {
		return s
	}
	return strings.ToValidUTF8(s[:messageLimit], "") + "…"
}

// IsNotFound reports whether the node group itself, its resource group or its subscription does not
// exist, so that there is nothing left to attach to. For a user-assigned identity that does not
// exist, see BadIdentities.
func IsNotFound(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusNotFound && len(r.identities) == 0 && !r.notARM()
}

// IsForbidden reports whether podid's own credential lacks a right. The error's text names the role
// to grant. If the right is missing on identities, BadIdentities names them as well.
func IsForbidden(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && (r.status == http.StatusForbidden || r.linked()) && !r.notARM()
}

// IsConflict reports whether another operation on the node group was in progress or intervened. The
// same request can be retried later.
func IsConflict(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.conflict()
}

// conflict checks the status and, because the status of an accepted operation that failed later is
// that of the poll, also the codes. A later operation preempts an earlier one ("status":
// "Canceled", OperationPreempted).
func (r *refusal) conflict() bool {
	if r.status == http.StatusConflict || r.status == http.StatusPreconditionFailed {
		return true
	}
	return conflicting(r.code) || slices.ContainsFunc(r.details, conflicting)
}

// conflicting reports whether the code means that another operation interfered.
func conflicting(code string) bool {
	switch ascii.ToLower(code) {
	case "conflict", "anotheroperationinprogress", "operationpreempted", "preconditionfailed", "retryableerror",
		"retryableerrorduetoanotheroperation", "canceledandsupersededduetoanotheroperation", "canceled":
		return true
	default:
		return false
	}
}

// defaultRetryAfter applies to a 429 without Retry-After: a scale set's limit grows by 4 updates a
// minute.
const defaultRetryAfter = 15 * time.Second

// RetryAfter returns the pause that Azure requests, and whether it throttled the call (429, or 503
// with Retry-After).
func RetryAfter(err error) (time.Duration, bool) {
	r, ok := errors.AsType[*refusal](err)
	switch {
	case !ok:
		return 0, false
	case r.status == http.StatusTooManyRequests && r.retryAfter <= 0:
		return defaultRetryAfter, true
	case r.status == http.StatusTooManyRequests, r.status == http.StatusServiceUnavailable && r.retryAfter > 0:
		return r.retryAfter, true
	default:
		return 0, false
	}
}

// BadIdentities returns the resource IDs of the user-assigned identities that Azure names as the
// cause of its refusal: identities that do not exist, that podid may not assign, or whose ID is
// malformed. Those of the request come first, in the caller's spelling.
//
// Azure also names identities that were not in the request. If an identity is deleted while the
// node group has it, Azure refuses every change of that group. Such an identity has to be detached
// before anything else can be attached; it is in Identities.Orphaned. A caller must not detach
// identities that it does not manage. Then only an operator can, and the error says which.
//
// The result is empty if the error names no identity. An identity may still be the cause.
func BadIdentities(err error) []string {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return nil
	}
	return r.identities
}

// GetError returns the error of Client.Get when the SDK returns err.
func GetError(group Group, err error) error { return refuse(reads, group, nil, err) }

// PatchError returns the error of Client.Patch when the SDK returns err for a request that names
// those identities.
func PatchError(group Group, named []string, err error) error {
	return refuse(writes, group, named, err)
}

// refuse converts the SDK's error to a refusal if it is a response of ARM. Other errors (the
// network, the credential, the context) are only wrapped. requested are the identities that the
// call named.
func refuse(act string, group Group, requested []string, err error) error {
	if err == nil {
		return nil
	}
	if unsent, ok := errors.AsType[*notSentError](err); ok {
		return &refusal{
			act: act, group: group, status: http.StatusTooManyRequests, message: unsent.Error(), retryAfter: unsent.wait, err: err,
		}
	}
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return fmt.Errorf("%s %s: %w", act, group, unreachable(err))
	}
	r := &refusal{act: act, group: group, status: answer.StatusCode, code: codeOf(answer), err: err}
	if answer.RawResponse != nil {
		r.retryAfter = retryAfter(answer.RawResponse.Header)
		if body, readErr := runtime.Payload(answer.RawResponse); readErr == nil {
			r.read(body)
		}
	}
	r.identities = r.named(requested)
	return r
}

// unreachable adds what to check if there was no response at all.
func unreachable(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("certificate of Azure is not trusted: %w (for a private cloud, let SSL_CERT_FILE name its CA)", err)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("cannot reach Azure: %w (check the network, the proxy and the endpoints of the cloud)", err)
	}
	return err
}

// armError is the shape of ARM's error bodies: {"error": {...}}, and of a failed long-running
// operation.
type armError struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Target  string     `json:"target"`
	Details []armError `json:"details"`
}

// read sets code and message from an error body. It ignores a body of another shape.
func (r *refusal) read(body []byte) {
	var answer struct {
		Status string   `json:"status"` // of a long-running operation
		Error  armError `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	if answer.Error.Code+answer.Error.Message == "" {
		if r.code == "" && ascii.EqualFold(answer.Status, "Canceled") {
			r.code = "Canceled"
		}
		return
	}
	if answer.Error.Code != "" {
		r.code = answer.Error.Code
	}
	r.message = strings.Join(messages(answer.Error, nil, 0), " ")
	for _, detail := range answer.Error.Details[:min(len(answer.Error.Details), mostDetails)] {
		r.details = append(r.details, detail.Code)
	}
}

// mostDetails bounds how many details are read.
const mostDetails = 16

// messages collects the messages and targets of an error and of its details, which ARM nests a
// level or two deep.
func messages(e armError, all []string, depth int) []string {
	const deepest, most = 4, 64
	for _, text := range []string{e.Message, e.Target} {
		if text != "" && len(all) < most {
			all = append(all, text)
		}
	}
	if depth < deepest {
		for _, detail := range e.Details {
			all = messages(detail, all, depth+1)
		}
	}
	return all
}
