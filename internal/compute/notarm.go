// Responses that are not from Azure but from a proxy, a firewall or a portal in between. They say
// nothing about the request.

package compute

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// notARM reports whether a refusal did not come from ARM, whose refusals all carry a code. It
// excludes statuses without a code that mean the same from any server.
func (r *refusal) notARM() bool {
	switch r.status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusConflict, http.StatusPreconditionFailed,
		http.StatusTooManyRequests:
		return false
	default:
		return r.status >= http.StatusBadRequest && r.code == ""
	}
}

// notARMMessage returns the error text of such a response.
func (r *refusal) notARMMessage() string {
	return fmt.Sprintf("HTTP %d, and the answer is not Azure's (a proxy?)", r.status)
}

// notARM reports whether an error of the SDK is a response that did not come from ARM.
func notARM(err error) bool {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	return ok && (&refusal{status: answer.StatusCode, code: codeOf(answer)}).notARM()
}

// codeOf returns ARM's code in a response. It ignores the codes that the SDK finds in HTML.
func codeOf(answer *azcore.ResponseError) string {
	resp := answer.RawResponse
	if resp == nil || resp.Header.Get("X-Ms-Error-Code") != "" {
		return answer.ErrorCode
	}
	if body, err := runtime.Payload(resp); err != nil || !json.Valid(body) {
		return ""
	}
	return answer.ErrorCode
}
