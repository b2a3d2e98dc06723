package entra

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/reason"
)

// TestGreedyAuthority checks that an authority of an author's choice cannot make the agent read
// more than a token needs.
func TestGreedyAuthority(t *testing.T) {
	answer := func(w io.Writer, bytes int) {
		_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("x", bytes)+`","expires_in":3600}`)
	}
	for name, test := range map[string]struct {
		says    func(http.ResponseWriter)
		tenants int
		status  int
		calls   int
	}{
		"large token": {func(w http.ResponseWriter) { answer(w, maxReply) }, 0, 500, attempts},
		"large header": {func(w http.ResponseWriter) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			answer(w, 9)
		}, 0, 500, attempts},
		"many tenants":  {func(w http.ResponseWriter) { answer(w, 40<<10) }, 100, 403, 0},
		"not too large": {func(w http.ResponseWriter) { answer(w, 4<<10) }, 100, 0, 101},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 1000)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- struct{}{}
				if r.ProtoMajor != 1 {
					t.Errorf("asked by %s", r.Proto)
				}
				test.says(w)
			}))
			server.EnableHTTP2 = true
			server.StartTLS()
			defer server.Close()
			roots := x509.NewCertPool()
			roots.AddCert(server.Certificate())
			e := NewClientSecret(Config{Calls: calls(), Roots: roots}, &secrets{data: map[string]map[string][]byte{"ns/a": {"clientSecret": []byte(theSecret)}}})
			e.client.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS13
			r := sourcetest.Request("a", "x")
			r.Identity.Spec.Type, r.Identity.Spec.TenantID, r.Identity.Spec.ADEndpoint = 1, "t", server.URL
			r.Identity.Spec.ClientPassword.Name = "a"
			for i := range test.tenants {
				r.Identity.Spec.AuxiliaryTenantIDs = append(r.Identity.Spec.AuxiliaryTenantIDs, fmt.Sprint("t", i))
			}
			got, err := e.Token(t.Context(), r)
			if test.status == 0 {
				if err != nil || got.Size() > maxReplies {
					t.Errorf("%d bytes, %v", got.Size(), err)
				}
			} else if f := failure(t, err); f.Answer().Status != test.status {
				t.Errorf("got %v", f)
			}
			if n := len(asked); test.calls != 0 && n != test.calls || n > 101 || test.status == 403 && n > 20 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// TestTokenOfAnotherApplication checks the tokens of applications, also those for auxiliary
// tenants.
func TestTokenOfAnotherApplication(t *testing.T) {
	own := app("secret")
	for _, c := range []struct {
		name   string
		first  map[string]any // claims of the first tenant's token, nil: opaque
		others map[string]any
		reason reason.Reason
	}{
		{"opaque", nil, nil, reason.None},
		{"its own", map[string]any{"appid": strings.ToUpper(own)}, map[string]any{"azp": own}, reason.None},
		{"another's", map[string]any{"appid": world.GUID("x")}, nil, reason.OtherIdentity},
		{"another's, version 2", map[string]any{"azp": world.GUID("x")}, nil, reason.OtherIdentity},
		{"another's in an auxiliary tenant", map[string]any{"appid": own}, map[string]any{"appid": world.GUID("x")}, reason.OtherIdentity},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				claims := c.first
				if !strings.HasPrefix(r.URL.Path, "/first/") {
					claims = c.others
				}
				access := "opaque"
				if claims != nil {
					access = sourcetest.JWT(claims)
				}
				_, _ = fmt.Fprint(w, sourcetest.Reply(access, ""))
			}))
			defer server.Close()
			held := &secrets{data: map[string]map[string][]byte{"ns/a": {"clientSecret": []byte(theSecret)}}}
			e := NewClientSecret(Config{Calls: calls()}, held)
			e.client = server.Client()
			r := sourcetest.Request("a", "x")
			r.Identity.Spec = v1.AzureIdentitySpec{
				Type: v1.ServicePrincipal, ClientID: own, TenantID: "first", AuxiliaryTenantIDs: []string{"second", "third"}, ADEndpoint: server.URL,
			}
			r.Identity.Spec.ClientPassword.Name = "a"
			got, err := e.Token(t.Context(), r)
			if c.reason == reason.None {
				if err != nil || len(got.Auxiliary) != 2 {
					t.Errorf("got %v", err)
				}
				return
			}
			if f := failure(t, err); f.Answer().Status != http.StatusForbidden || f.Reason != c.reason || !strings.Contains(f.Message, "spec.clientID") {
				t.Errorf("got %+v", f)
			}
		})
	}
}
