package compute

import (
	"errors"
	"net/http"
)

// IsRefused reports that ARM looked at the request and said no, so that the same request will get the same answer
// until something changes: what it asks for is at fault, not the moment, the network or podid's rights on the node
// group. A caller that asked for several identities can find the one at fault by asking for fewer, when BadIdentities
// does not name it.
func IsRefused(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.conflict() {
		return false
	}
	switch r.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return r.linked()
	case http.StatusNotFound:
		return len(r.bad) > 0
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		if r.status < http.StatusBadRequest {
			// A long-running operation that was accepted and then failed answers 200. ARM checks the identities
			// before it accepts; what fails later is most often a machine.
			return r.aboutIdentities()
		}
		return r.status < http.StatusInternalServerError
	}
}
