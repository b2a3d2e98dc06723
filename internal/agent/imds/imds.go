// Package imds is the wire of the Azure Instance Metadata Service as the agent
// speaks it: which path means what, how a token request is read, how a reply
// and an error look. It decides nothing about pods and identities and holds no
// connection.
//
// What real clients send and need was measured on the wire; the constants and
// choices here follow from that, and each says which client it is for.
package imds

const (
	// TokenPath is the one path under /metadata/identity that pods may use.
	TokenPath = "/metadata/identity/oauth2/token"
	// HostTokenPath is where host processes ask for a pod's token.
	HostTokenPath = "/host/token"
	// MetadataHeader must be "true", in any case, on every request to the
	// service: a browser or a naive proxy cannot be made to send it.
	MetadataHeader = "Metadata"
	// ForwardedHeader shows that a request went through a proxy, which the
	// service refuses for the same reason.
	ForwardedHeader = "X-Forwarded-For"
	// ContentType of every JSON body; @azure/identity 1.0 dies of any other.
	ContentType = "application/json; charset=utf-8"
)
