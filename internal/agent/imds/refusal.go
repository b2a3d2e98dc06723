// The format of refusals.

package imds

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/podid-io/podid/internal/reason"
)

// HeaderMissing refuses a request without the Metadata header, in the words that every client's
// probe expects. They must not contain "Identity not found": Azure.Identity for .NET distinguishes
// a probe's answer from a missing identity by that.
func HeaderMissing() *reason.Refusal {
	return reason.HeaderMissing.Refuse("Required metadata header not specified")
}

// Forwarded refuses a request that came through a proxy.
func Forwarded() *reason.Refusal {
	return reason.Forwarded.Refuse("requests with the header X-Forwarded-For are refused: " +
		"send them directly, not through a proxy")
}

// NotFound refuses an unknown path.
func NotFound() *reason.Refusal { return reason.PathUnknown.Refuse("there is nothing at this path") }

// MethodNotAllowed refuses anything but GET.
func MethodNotAllowed() *reason.Refusal {
	return reason.MethodNotAllowed.Refuse("only GET is supported")
}

// body returns the JSON of a refusal.
func body(answer reason.Answer) []byte {
	description := answer.Description
	if answer.Status == http.StatusForbidden {
		description = reachable(description)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Two strings always encode.
	_ = enc.Encode(struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{answer.OAuth, description})
	return bytes.TrimRight(b.Bytes(), "\n")
}

// reachable rewords the text of a 403. Several SDKs treat a 403 with the word "unreachable" as one
// of Docker Desktop's proxy and silently try another credential.
func reachable(s string) string {
	return regexp.MustCompile(`(?i)unreachable`).ReplaceAllString(s, "not reachable")
}

// WriteRefusal answers with a refusal. It leaves the body out for clients that take any body as a
// value. Clients branch on the status: 400, 401 and 403 are final to all of them; they retry
// after 404, 429 and 500.
func WriteRefusal(w http.ResponseWriter, r *reason.Refusal, withoutBody bool) {
	answer := r.Answer()
	var text []byte
	h := w.Header()
	if !withoutBody {
		text = body(answer)
		h.Set("Content-Type", ContentType)
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if r.RetryAfter > 0 { // whole seconds, rounded up
		h.Set("Retry-After", strconv.Itoa(int((r.RetryAfter+time.Second-1)/time.Second)))
	}
	if answer.Status == http.StatusMethodNotAllowed {
		h.Set("Allow", http.MethodGet)
	}
	w.WriteHeader(answer.Status)
	_, _ = w.Write(text) // an error means that the client disconnected
}
