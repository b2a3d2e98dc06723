// Several replies at once.

package imds

import "time"

// Replies are the replies for the tenants of a multi-tenant application, its own
// first. They go out as a JSON array, which is what v1.8.17 sends for an identity
// with auxiliaryTenantIDs.
type Replies []*Reply

// Append appends the body as of now to dst.
func (r Replies) Append(dst []byte, now time.Time) []byte {
	dst = append(dst, '[')
	for i, reply := range r {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = reply.Append(dst, now)
	}
	return append(dst, ']')
}
