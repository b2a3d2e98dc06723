// The reply for an application with auxiliary tenants: one token of each tenant.

package imds

import "time"

// Replies are the replies for the tenants of a multi-tenant application, its own first. They are
// sent as a JSON array, as v1.8.17 does for an identity with auxiliaryTenantIDs.
type Replies []*Reply

// Append implements token.Body.
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
