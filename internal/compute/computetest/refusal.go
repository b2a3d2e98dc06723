// Refusals as Azure writes them, for the fake and for tests.

package computetest

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/podid-io/podid/internal/compute"
)

// Refusal returns the error of Client.Patch when ARM refuses it with that HTTP status (200 for an
// operation that was accepted and failed later), code and message. requested are the identities of
// the PATCH: BadIdentities returns those that the message names. A retryAfter of 0 is none.
func Refusal(group compute.Group, status int, code, message string, requested []string, retryAfter time.Duration) error {
	return compute.PatchError(group, requested, answer(status, code, message, retryAfter))
}

// answer returns what the SDK makes of an error response.
func answer(status int, code, message string, retryAfter time.Duration) error {
	body, err := json.Marshal(map[string]any{"error": map[string]string{"code": code, "message": message}})
	if err != nil {
		return err
	}
	header := http.Header{}
	if retryAfter > 0 {
		header.Set("Retry-After-Ms", strconv.FormatInt(int64((retryAfter+time.Millisecond-1)/time.Millisecond), 10))
	}
	return &azcore.ResponseError{
		StatusCode: status, ErrorCode: code,
		RawResponse: &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(string(body)))},
	}
}
