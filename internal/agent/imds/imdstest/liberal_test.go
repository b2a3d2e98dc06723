package imdstest

import "testing"

// TestReadsAsIdentity checks that the oracle finds what it should, and no more.
func TestReadsAsIdentity(t *testing.T) {
	for _, target := range []string{
		"/metadata/identity", "/metadata/identity/oauth2/token?x", "/Metadata/IDENTITY/info", "//metadata//identity/", "metadata/identity",
		"/metadata/./identity", "/metadata/instance/../identity", "/../metadata/identity", "/metadata/instance/%2e%2e/identity", "/metadata/instance/..%2fidentity",
		"/metadata%2fidentity", "/metadata/%69dentity", "/metadata/%2569dentity", "/metadata/%252569dentity", "/%6detadata/identity",
		`/metadata\identity`, "/metadata%5cidentity", "/metadata%255Cidentity", `/metadata/instance/..\identity`,
		"/metadata;a=b/identity", "/metadata/identity;x", "/metadata/instance;/../identity", "/metadata/identity%3b", "/metadata%3bx/identity",
		"http://169.254.169.254/metadata/identity", "HTTP://x:80/metadata/identity", "//host/metadata/identity", "http://x/metadata/instance/../identity",
		"/metadata/ide%00ntity", "/metadata/identity%00x", "/metadata/identity%20", "/metadata/identity.", "/ metadata/identity", "/metadata/iden\ttity",
		"/metadata/identity#x", "/metadata/identity%3fx", "/metadata%c0%afidentity", "/metadata%e0%80%afidentity", "/metadata%f0%80%80%afidentity", "/metadata/%c1%a9dentity",
		"/metadata/%u0069dentity", "/metadata\uff0fidentity", "/metadata/\uff49dentity", "/metadata\u2215identity", "/metadata/\u0131dentity", "/metadata/iden\u200btity",
		"/metadata%ef%bc%8fidentity",
	} {
		if !ReadsAsIdentity(target) {
			t.Errorf("%q: not found", target)
		}
	}
	for _, target := range []string{
		"", "/", "*", "/metadata", "/metadata/instance", "/metadata/instance/compute?x=/metadata/identity", "/metadata/attested/document", "/metadata/versions/",
		"/identity/metadata", "/metadata/identit", "/metadata/instance/identity", "/metadatax/identity",
	} {
		if ReadsAsIdentity(target) {
			t.Errorf("%q: read as a path under /metadata/identity", target)
		}
	}
}
