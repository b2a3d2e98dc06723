package compute

// Refusals for a Fake to answer.

import "time"

// FakeRefusal is ARM's no to a PATCH as Client would return it: that HTTP status (200 for an operation that was accepted
// and failed later), code and words. requested are the identities of the PATCH; BadIdentities are those that the words name.
func FakeRefusal(group Group, status int, code, message string, requested []string, retryAfter time.Duration) error {
	return fakeRefusal(group, status, code, message, requested, retryAfter)
}
