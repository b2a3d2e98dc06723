package imds

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/agent/imds/imdstest"
)

func TestClassify(t *testing.T) {
	token := Route{Kind: Token, Label: TokenPath}
	other := Route{Kind: IdentityOther, Label: "/metadata/identity"}
	unknown := Route{Label: "unknown"}
	instance := func(path string) Route {
		return Route{Kind: PassThrough, Label: "/metadata/instance", Instance: true, Path: path}
	}
	userData := func(path string) Route {
		return Route{Kind: PassThrough, Label: "/metadata/instance", Instance: true, UserData: true, Path: path}
	}
	tests := []struct {
		path string
		want Route
	}{
		{"/metadata/identity/oauth2/token", token},
		{"/metadata/identity/oauth2/token/", token},
		{"/Metadata/Identity/OAuth2/Token", token},
		{"/METADATA/identity/oauth2/token/", token},

		{"/metadata/identity", other},
		{"/metadata/identity/", other},
		{"/metadata/identity/info", other},
		{"/metadata/identity/oauth2", other},
		{"/metadata/identity/oauth2/token/x", other},
		{"/metadata/identity/oauth2/tokens", other},
		{"/metadata/identity/getplatformmetadata", other},
		{"/metadata/identity/issuecredential", other},
		{"/METADATA/IDENTITY/credential", other},

		{"/metadata/instance", instance("/metadata/instance")},
		{"/Metadata/Instance/", instance("/metadata/instance/")},
		{"/metadata/instance/compute/userData", userData("/metadata/instance/compute/userData")},
		{"/Metadata/Instance/COMPUTE/USERDATA/", userData("/metadata/instance/COMPUTE/USERDATA/")},
		{"/metadata/instance/compute/userdata/0", userData("/metadata/instance/compute/userdata/0")},
		{"/metadata/instance/compute/customData", userData("/metadata/instance/compute/customData")},
		{"/metadata/instance/compute/userDataX", instance("/metadata/instance/compute/userDataX")},
		{"/metadata/instance/compute/user%44ata", unknown},
		{"/metadata/instance/compute//userData", unknown},
		{"/metadata/instance/compute/tagsList/0/name", instance("/metadata/instance/compute/tagsList/0/name")},
		{"/metadata/instance/compute/location", Route{Kind: PassThrough, Label: "/metadata/instance", Instance: true, PlainText: true, Path: "/metadata/instance/compute/location"}},
		{"/metadata/attested/document", Route{Kind: PassThrough, Label: "/metadata/attested/document", Instance: true, Attested: true, Path: "/metadata/attested/document"}},
		{"/metadata/scheduledevents", Route{Kind: PassThrough, Label: "/metadata/scheduledevents", Path: "/metadata/scheduledevents"}},
		{"/metadata/loadbalancer/", Route{Kind: PassThrough, Label: "/metadata/loadbalancer", Path: "/metadata/loadbalancer/"}},
		{"/metadata/versions", Route{Kind: PassThrough, Label: "/metadata/versions", Path: "/metadata/versions"}},

		{"/host/token", Route{Kind: HostToken, Label: HostTokenPath}},
		{"/host/token/", Route{Kind: HostToken, Label: HostTokenPath}},

		{"", unknown},
		{"/", unknown},
		{"*", unknown},
		{"/metadata", unknown},
		{"/metadata/", unknown},
		{"/latest/meta-data", unknown},
		{"/metadata/v1.json", unknown},
		{"/computeMetadata/v1", unknown},
		{"/machine", unknown},
		{"/metadata/attested", unknown},
		{"/metadata/attested/signature", unknown},
		{"/metadata/scheduledevents/x", unknown},

		// Odd spellings, of the token path and of others.
		{"//metadata/identity/oauth2/token", unknown},
		{"/metadata//identity/oauth2/token", unknown},
		{"/metadata/identity/oauth2/token//", unknown},
		{"/metadata/identity/oauth2/./token", unknown},
		{"/metadata/instance/../identity/oauth2/token", unknown},
		{"/metadata/instance/..%2fidentity%2foauth2%2ftoken", unknown},
		{"/metadata/instance/%2e%2e/identity/oauth2/token", unknown},
		{"/metadata/instance/..%5Cidentity/oauth2/token", unknown},
		{"/metadata/instance/..\\identity\\oauth2\\token", unknown},
		{"/metadata\\identity\\oauth2\\token", unknown},
		{"/metadata%2fidentity%2foauth2%2ftoken", unknown},
		{"/metadata/%69dentity/oauth2/token", unknown},
		{"/metadata/%2569dentity/oauth2/token", unknown},
		{"/metadata/identity/oauth2/token;x", unknown},
		{"/metadata/identity;x/oauth2/token", unknown},
		{"/metadata/instance;/../identity/oauth2/token", unknown},
		{"/metadata/instance/...", unknown},
		{"/metadata/identity/oauth2/token%00", unknown},
		{"/metadata/identity/oauth2/token%20", unknown},
		{"/metadata/ıdentity/oauth2/token", unknown},
		{"/metadata/identity/oauth2/to\u212aen", unknown}, // the Kelvin sign folds to k
		{"/metadata/instance/" + strings.Repeat("a/", 20) + "a", unknown},
		{"/metadata/instance/" + strings.Repeat("a", 600), unknown},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Classify(tt.path)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzClassify looks for a path that is passed on although a server could read it as one under
// /metadata/identity, or although it is not on the list.
func FuzzClassify(f *testing.F) {
	for _, seed := range []string{
		TokenPath, "/metadata/instance/compute?x", "/metadata/instance/..%2f..%5cidentity", "//Metadata/%69dentity;/oauth2/token",
		"http://169.254.169.254/metadata/identity/oauth2/token", "/metadata/versions/",
	} {
		f.Add(seed)
	}
	list := regexp.MustCompile(`^/metadata/(instance(/[A-Za-z0-9_-]+)*|attested/document|scheduledevents|loadbalancer|versions)/?$`)
	f.Fuzz(func(t *testing.T, target string) {
		paths := []string{target}
		if u, err := url.ParseRequestURI(target); err == nil {
			paths = append(paths, u.EscapedPath())
		}
		for _, p := range paths {
			r := Classify(p)
			if (r.Kind == PassThrough) != (r.Path != "") {
				t.Fatalf("%q: kind %d with path %q", p, r.Kind, r.Path)
			}
			if r.Kind != PassThrough {
				continue
			}
			if !list.MatchString(r.Path) {
				t.Fatalf("%q would be passed on as %q", p, r.Path)
			}
			if !strings.EqualFold(r.Path, p) {
				t.Fatalf("%q would be passed on as something else: %q", p, r.Path)
			}
			// Queries are not passed on unchanged: see FuzzPassOnQuery and the server's
			// FuzzRawRequest.
			if imdstest.ReadsAsIdentity(p) || imdstest.ReadsAsIdentity(r.Path) {
				t.Fatalf("%q can be read as a path under /metadata/identity and would be passed on", p)
			}
		}
	})
}
