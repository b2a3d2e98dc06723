package imds

import (
	"net/url"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/agent/imds/imdstest"
)

func TestPassOnQuery(t *testing.T) {
	for query, want := range map[string]string{
		"":                                   "",
		"api-version=2021-02-01&format=text": "api-version=2021-02-01&format=text",
		"&&a=1&&b=&c&":                       "a=1&b=&c=",
		"%61pi-version=2021%2D02-01":         "api-version=2021-02-01",
		"nonce=1234567890&api-version=2020-09-01-preview&cred-api-version=2.0": "nonce=1234567890&api-version=2020-09-01-preview&cred-api-version=2.0",
		"a=1&a=2": "!more than once", "A=1&%61=2": "!more than once",
		"a=b;c=d": "!letters", "a=/../../identity": "!letters", "a=%2f": "!letters", "a=b%26c=d": "!letters", "a=+": "!letters", "a=%252f": "!letters",
		"=x": "!letters", "a=%": "!escape", "a=ı": "!letters", "a=b%0d%0aX: y": "!letters", "a=#x": "!letters", "a=?": "!letters",
		"a=" + strings.Repeat("x", 2000): "!too long",
	} {
		got, refusal := PassOnQuery(query)
		if refused, ok := strings.CutPrefix(want, "!"); ok {
			if refusal == nil || refusal.Reason.Status() != 400 || !strings.Contains(refusal.Message, refused) {
				t.Errorf("%q: got %q, %v; want 400 about %q", query, got, refusal, refused)
			}
			continue
		}
		if refusal != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", query, got, refusal, want)
		}
	}
}

// FuzzPassOnQuery looks for a query that the real service could read differently, or as a path.
func FuzzPassOnQuery(f *testing.F) {
	f.Add("api-version=2021-02-01&format=text")
	f.Add("x=/../../identity/oauth2/token&y=%2e%2e%5c")
	f.Fuzz(func(t *testing.T, query string) {
		got, refusal := PassOnQuery(query)
		if refusal != nil {
			return
		}
		mine, err1 := url.ParseQuery(got)
		came, err2 := url.ParseQuery(query)
		if err1 != nil || err2 != nil || mine.Encode() != came.Encode() {
			t.Fatalf("%q would be passed on as %q", query, got)
		}
		if target := "/metadata/instance?" + got; imdstest.ReadsAsIdentity(target) {
			t.Fatalf("%q can be read as a path under /metadata/identity", target)
		}
	})
}
