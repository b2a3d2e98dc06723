// Classification of paths. It keeps pods from the node's own identity: an unknown path is not
// passed on.

package imds

import (
	"slices"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// Kind is what a path asks for.
type Kind int

// The kinds of path.
const (
	// Unknown is answered 404. So is every odd spelling of a known path.
	Unknown Kind = iota
	// Token is the token path, answered by the agent itself.
	Token
	// IdentityOther is any other path under /metadata/identity. Some of them mint credentials of
	// the node, so none is passed on. The answer is 404 even without the Metadata header: MSAL .NET
	// concludes from a 400 that there is IMDSv2.
	IdentityOther
	// PassThrough is a known path of the real service.
	PassThrough
	// HostToken is the path for host processes.
	HostToken
)

// Route is a classified path.
type Route struct {
	Kind Kind
	// Path is the path to request from the real service. It is set for PassThrough only, and built
	// from known parts instead of copied from the request.
	Path string
	// Label names the route in metrics and logs. There are only a few.
	Label string
	// Instance means that the answer describes the machine. The flag block-instance-metadata blocks
	// it.
	Instance bool
	// UserData means that the answer is the data that the machine was created with.
	UserData bool
	// Attested means that the answer is the signed document by which a program proves that it runs
	// on this machine.
	Attested bool
	// PlainText means that clients use any body as the value, whatever the status: MSAL Python uses
	// an error's body as the region. A refusal must have no body.
	PlainText bool
}

// Bounds of a path. The longest known one has about 80 bytes and 9 segments.
const (
	maxPath     = 512
	maxSegments = 16
)

// Classify returns the route of an escaped path (url.URL.EscapedPath).
//
// It refuses instead of normalizing: a path is Unknown unless it consists of letters, digits, "-",
// "_" and single slashes between them. So there is no escape, dot segment, backslash, parameter or
// double slash that the real service could read differently. Letters compare in any case, as in the
// service. One trailing slash is allowed, as msal-node sends it.
func Classify(escapedPath string) Route {
	// Nearly every request has this path.
	if escapedPath == TokenPath {
		return Route{Kind: Token, Label: TokenPath}
	}
	segments, slash, ok := split(escapedPath)
	if !ok || len(segments) < 2 {
		return Route{Label: "unknown"}
	}
	switch {
	case ascii.EqualFold(segments[0], "metadata"):
		return classifyMetadata(segments[1:], slash)
	case "/"+strings.Join(segments, "/") == HostTokenPath:
		return Route{Kind: HostToken, Label: HostTokenPath}
	}
	return Route{Label: "unknown"}
}

// classifyMetadata classifies the segments after /metadata, at least one.
func classifyMetadata(segments []string, slash string) Route {
	name, rest := ascii.ToLower(segments[0]), segments[1:]
	switch name {
	case "identity":
		if is(rest, "oauth2", "token") {
			return Route{Kind: Token, Label: TokenPath}
		}
		return Route{Kind: IdentityOther, Label: "/metadata/identity"}
	case "instance":
		return Route{
			Kind: PassThrough, Label: "/metadata/instance", Instance: true,
			Path:      "/metadata/instance" + join(rest) + slash,
			UserData:  slices.ContainsFunc(rest, isUserData),
			PlainText: is(rest, "compute", "location"),
		}
	case "attested":
		if is(rest, "document") {
			r := known("/metadata/attested/document", slash)
			r.Instance, r.Attested = true, true
			return r
		}
	case "scheduledevents", "loadbalancer", "versions":
		if len(rest) == 0 {
			return known("/metadata/"+name, slash)
		}
	}
	return Route{Label: "unknown"}
}

// is reports whether the segments are these names, in any case.
func is(segments []string, names ...string) bool {
	return slices.EqualFunc(segments, names, ascii.EqualFold)
}

func known(path, slash string) Route {
	return Route{Kind: PassThrough, Label: path, Path: path + slash}
}

// split returns the segments of a plain path. ok is false for any other path.
func split(path string) (segments []string, slash string, ok bool) {
	if len(path) < 2 || len(path) > maxPath || path[0] != '/' {
		return nil, "", false
	}
	path = path[1:]
	if strings.HasSuffix(path, "/") {
		path, slash = path[:len(path)-1], "/"
	}
	segments = strings.Split(path, "/")
	if len(segments) > maxSegments {
		return nil, "", false
	}
	for _, s := range segments {
		if !plain(s) {
			return nil, "", false
		}
	}
	return segments, slash, true
}

func plain(segment string) bool {
	for i := range len(segment) {
		c := segment[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return segment != ""
}

func join(segments []string) string {
	if len(segments) == 0 {
		return ""
	}
	return "/" + strings.Join(segments, "/")
}
