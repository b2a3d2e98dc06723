// How an error looks.

package imds

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// Error is an answer that is not a token. Clients branch on the status: 400,
// 401 and 403 are final to all of them; 404, 429 and 500 are tried again.
type Error struct {
	Status int
	// Code is one word, Description a sentence for a person.
	Code, Description string
	// RetryAfter, when not zero, is sent in whole seconds, rounded up.
	RetryAfter time.Duration
	// Empty leaves the body out, for clients that take any body as a value.
	Empty bool
}

// Error is the description.
func (e *Error) Error() string { return e.Description }

// The two answers that clients know by heart.
const (
	// descriptionHeader must not contain descriptionNotFound: Azure.Identity
	// for .NET tells a probe's answer from a missing identity by that.
	descriptionHeader   = "Required metadata header not specified"
	descriptionNotFound = "Identity not found"
)

// HeaderMissing is the answer to a request without the Metadata header, which
// is what every client's probe expects.
func HeaderMissing() *Error { return badRequest(descriptionHeader) }

// Forwarded is the answer to a request that went through a proxy.
func Forwarded() *Error {
	return badRequest("requests with the header X-Forwarded-For are refused: send them directly, not through a proxy")
}

// IdentityNotFound is what the real service says on a machine that lacks the
// identity.
func IdentityNotFound() *Error { return badRequest(descriptionNotFound) }

// NotFound is the answer to an unknown path.
func NotFound() *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found", Description: "there is nothing at this path"}
}

// MethodNotAllowed is the answer to anything but GET.
func MethodNotAllowed() *Error {
	return &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Description: "only GET is supported"}
}

func badRequest(description string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_request", Description: description}
}

// Body is the JSON of the error, nil when it is Empty.
func (e *Error) Body() []byte {
	if e.Empty {
		return nil
	}
	description := e.Description
	if e.Status == http.StatusForbidden {
		description = reachable(description)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Two strings always encode.
	_ = enc.Encode(struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{e.Code, description})
	return bytes.TrimRight(b.Bytes(), "\n")
}

// reachable rewords a 403's text: several SDKs take the word "unreachable" in
// one as Docker Desktop's proxy and quietly go on to another credential.
func reachable(s string) string {
	return regexp.MustCompile(`(?i)unreachable`).ReplaceAllString(s, "not reachable")
}

// WriteTo answers with the error.
func (e *Error) WriteTo(w http.ResponseWriter) {
	body := e.Body()
	h := w.Header()
	if body != nil {
		h.Set("Content-Type", ContentType)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	if e.Status == http.StatusMethodNotAllowed {
		h.Set("Allow", http.MethodGet)
	}
	w.WriteHeader(e.Status)
	// A client that went away needs no answer.
	_, _ = w.Write(body)
}
