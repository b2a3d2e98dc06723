package imds

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTokenRequest(t *testing.T) {
	const version = "api-version=2018-02-01"
	want := func(resource string, set ...func(*TokenRequest)) TokenRequest {
		q := TokenRequest{APIVersion: "2018-02-01", Resource: resource}
		for _, s := range set {
			s(&q)
		}
		return q
	}
	tests := []struct {
		name, query string
		want        TokenRequest
		refused     string // part of the description
	}{
		{
			name: "azidentity", query: version + "&client_id=abc&resource=https%3A%2F%2Fmanagement.azure.com%2F",
			want: want("https://management.azure.com/", func(q *TokenRequest) { q.ClientID = "abc" }),
		},
		{name: "python, raw", query: version + "&resource=https://management.azure.com", want: want("https://management.azure.com")},
		{name: "slashes stay", query: version + "&resource=https://x//", want: want("https://x//")},
		{name: "bare guid", query: "resource=6dae42f8-4368-4678-94ff-3960e28e3630&" + version, want: want("6dae42f8-4368-4678-94ff-3960e28e3630")},
		{name: "old spelling", query: version + "&resource=r&mi_res_id=/subscriptions/x", want: want("r", func(q *TokenRequest) { q.ResourceID = "/subscriptions/x" })},
		{name: "new spelling", query: version + "&resource=r&msi_res_id=/subscriptions/x", want: want("r", func(q *TokenRequest) { q.ResourceID = "/subscriptions/x" })},
		{name: "object id", query: version + "&resource=r&object_id=o", want: want("r", func(q *TokenRequest) { q.ObjectID = "o" })},
		{name: "principal id", query: version + "&resource=r&principal_id=o", want: want("r", func(q *TokenRequest) { q.ObjectID = "o" })},
		{name: "names in any case", query: "API-Version=2018-02-01&Resource=r&Client_ID=c", want: want("r", func(q *TokenRequest) { q.ClientID = "c" })},
		{name: "empty selector", query: version + "&resource=r&client_id=&object_id=o", want: want("r", func(q *TokenRequest) { q.ObjectID = "o" })},
		{name: "unknown ones", query: version + "&resource=r&bypass_cache=true&xms_cc=cp1&claims=%7B%7D", want: want("r")},
		{name: "stray ampersands", query: "&&" + version + "&&resource=r&", want: want("r")},
		{name: "other versions", query: "api-version=2099-12-31-preview&resource=r", want: TokenRequest{APIVersion: "2099-12-31-preview", Resource: "r"}},

		{name: "nothing", query: "", refused: "api-version"},
		{name: "no version", query: "resource=r", refused: "api-version"},
		{name: "odd version", query: "api-version=latest&resource=r", refused: "api-version"},
		{name: "odd version 2", query: "api-version=20180201&resource=r", refused: "api-version"},
		{name: "no resource", query: version, refused: "resource"},
		{name: "empty resource", query: version + "&resource=", refused: "resource"},
		{name: "two selectors", query: version + "&resource=r&client_id=c&object_id=o", refused: "only one"},
		{name: "both spellings", query: version + "&resource=r&mi_res_id=a&msi_res_id=a", refused: "only one"},
		{name: "twice", query: version + "&resource=r&resource=r", refused: "more than once"},
		{name: "twice, escaped", query: version + "&resource=r&%72esource=s", refused: "more than once"},
		{name: "twice, other case", query: version + "&resource=r&RESOURCE=s", refused: "more than once"},
		{name: "twice, empty", query: version + "&resource=r&client_id=&client_id=c", refused: "more than once"},
		{name: "unknown twice", query: version + "&resource=r&x=1&x=2", refused: "more than once"},
		{name: "bad escape", query: version + "&resource=%zz", refused: "escape"},
		{name: "control character", query: version + "&resource=a%0d%0ab", refused: "characters"},
		{name: "no UTF-8", query: version + "&resource=%ff", refused: "characters"},
		{name: "odd id", query: version + "&resource=r&client_id=%00", refused: "characters"},
		{name: "long value", query: version + "&resource=" + strings.Repeat("r", 3000), refused: "too long"},
		{name: "long query", query: version + "&resource=" + strings.Repeat("r", 9000), refused: "too long"},
		{
			name: "revoked", query: version + "&resource=r&token_sha256_to_refresh=" + strings.Repeat("aB", 32),
			want: TokenRequest{APIVersion: "2018-02-01", Resource: "r", Revoked: strings.Repeat("aB", 32)},
		},
		{name: "revoked, no hash", query: version + "&resource=r&token_sha256_to_refresh=x", want: TokenRequest{APIVersion: "2018-02-01", Resource: "r"}},
		{name: "many", query: version + "&resource=r" + many(40), refused: "too many"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, refusal := ParseTokenRequest(tt.query)
			if tt.refused != "" {
				if refusal == nil || refusal.Reason.Status() != 400 || !strings.Contains(refusal.Message, tt.refused) {
					t.Fatalf("got %v, want 400 about %q", refusal, tt.refused)
				}
				return
			}
			if refusal != nil {
				t.Fatal(refusal)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("&p" + string(rune('A'+i)) + "=1")
	}
	return b.String()
}

func FuzzParseTokenRequest(f *testing.F) {
	f.Add("api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F&client_id=x")
	f.Add("api-version=2018-02-01&resource=r&resource=%72")
	f.Fuzz(func(t *testing.T, query string) {
		q, refusal := ParseTokenRequest(query)
		if refusal != nil {
			if refusal.Reason.Status() != 400 || len(refusal.Message) > 500 {
				t.Fatalf("%q: odd refusal %v", query, refusal)
			}
			return
		}
		set := 0
		for _, s := range []string{q.ClientID, q.ObjectID, q.ResourceID} {
			if s != "" {
				set++
			}
		}
		if q.Resource == "" || set > 1 || !clean(q.Resource) {
			t.Fatalf("%q: accepted as %+v", query, q)
		}
	})
}
