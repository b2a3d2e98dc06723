// Package imds is the protocol of the Azure Instance Metadata Service, as the agent serves it:
// paths, token requests, replies and errors. It knows nothing about pods and identities and opens
// no connection.
//
// Its constants and choices follow from what real clients send and need, as captured on the wire.
// Each names the client that it is for.
package imds

const (
	// TokenPath is the one path under /metadata/identity that pods may use.
	TokenPath = "/metadata/identity/oauth2/token"
	// HostTokenPath is where host processes ask for a pod's token.
	HostTokenPath = "/host/token"
	// MetadataHeader must be "true", in any case, on every request to the service: an attacker
	// cannot make a browser or a naive proxy send it.
	MetadataHeader = "Metadata"
	// ForwardedHeader shows that a request went through a proxy. The service refuses such requests
	// for the same reason.
	ForwardedHeader = "X-Forwarded-For"
	// ContentType is that of every JSON body. @azure/identity 1.0 fails on any other.
	ContentType = "application/json; charset=utf-8"
)
