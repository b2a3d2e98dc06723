package compute

// Answers that are not Azure's: a proxy, a firewall or a portal on the way gave them. They say
// nothing about the request.

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

// notARMMessage returns the text for it.
func (r *refusal) notARMMessage() string {
	return fmt.Sprintf("HTTP %d, and the answer is not Azure's (a proxy?)", r.status)
}

// notARM is refusal.notARM of what the SDK returned.
func notARM(err error) bool {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	return ok && (&refusal{status: answer.StatusCode, code: codeOf(answer)}).notARM()
}

// codeOf is ARM's code in an answer. The SDK finds codes in HTML, too.
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
