// What MIC can do about an error of Azure: try again, leave out an identity, or wait for a person.

package compute

import (
	"errors"
	"net/http"

	"github.com/podid-io/podid/internal/ascii"
)

// IsRefused reports whether ARM examined and rejected the request, so that it fails again until
// something changes. The cause is what it asks for, not the moment, the network or podid's rights
// on the node group. If BadIdentities does not name the identity at fault, a caller can find it by
// asking for fewer.
func IsRefused(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.conflict() || r.notARM() {
		return false
	}
	switch r.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return r.linked()
	case http.StatusNotFound:
		return len(r.identities) > 0
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		if r.status < http.StatusBadRequest {
			// A long-running operation that was accepted and then failed answers 200. ARM checks the
			// identities before it accepts; later failures are usually the machine's.
			return r.aboutIdentities()
		}
		return r.status < http.StatusInternalServerError
	}
}

// Definite reports whether a failed Patch certainly changed nothing, because Azure refused it
// before it accepted any of it. It returns false for a lost answer, a 5xx, a timeout, an operation
// that failed and, to be careful, a conflict other than a lock.
func Definite(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.sent || r.notARM() || r.status < http.StatusBadRequest || r.status >= http.StatusInternalServerError {
		return false
	}
	switch r.status {
	case http.StatusRequestTimeout:
		return false
	case http.StatusConflict, http.StatusPreconditionFailed:
		return r.locked()
	default:
		return !r.conflict()
	}
}

// IsLocked reports whether a lock on the node group, its resource group or its subscription forbids
// changes. It persists until an operator removes the lock. Such an error is an IsConflict as well.
func IsLocked(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.locked()
}

// locked reports whether the refusal has ARM's code for a lock.
func (r *refusal) locked() bool { return ascii.EqualFold(r.code, "ScopeLocked") }
