package imds_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/imds"
	"github.com/podid-io/podid/internal/emulator/world"
)

var keys = sync.OnceValues(entra.GenerateKeys)

const (
	path  = "/metadata/identity/oauth2/token"
	query = "?api-version=2018-02-01&resource=https://vault.azure.net"
	ids   = "/subscriptions/" + world.DefaultSubscription + "/resourceGroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
)

// service is an IMDS without a network, on a clock that only the test advances.
type service struct {
	t       testing.TB
	now     time.Time
	world   *world.World
	handler http.Handler
}

func newService(t testing.TB, change func(*world.Document)) *service {
	t.Helper()
	s := &service{t: t, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	doc := world.Default("s3cret")
	doc.Settings.Limits.Enabled = false
	if change != nil {
		change(&doc)
	}
	signing, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	if s.world, err = world.New(doc, func() time.Time { return s.now }); err != nil {
		t.Fatal(err)
	}
	s.handler = imds.NewHandler(s.world, entra.NewTokens(signing, s.world, "https://login.example"))
	return s
}

func (s *service) do(method, target string, header ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, target, nil)
	r.RemoteAddr = "10.0.0.4:40000"
	r.Header.Set("Metadata", "true")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "From" {
			r.RemoteAddr = header[i+1]
			continue
		}
		r.Header.Del(header[i])
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// TestConformance is the service's contract, one row a rule.
func TestConformance(t *testing.T) {
	tests := []struct {
		name, method, target string
		header               []string
		status               int
		body                 string // part of the response
	}{
		{"token", "GET", path + query, nil, 200, `"token_type":"Bearer"`},
		{"trailing slash", "GET", path + "/" + query, nil, 200, ""},
		{"header in any case", "GET", path + query, []string{"Metadata", "TRUE"}, 200, ""},
		{"odd headers", "GET", path + query, []string{"Content-Type", "application/json", "Cookie", " ", "Accept", "application/json"}, 200, ""},
		{"unknown parameters", "GET", path + query + "&bypass_cache=true&xms_cc=x", nil, 200, ""},
		{"empty selector", "GET", path + query + "&client_id=", nil, 200, ""},
		{"escaped resource", "GET", path + "?resource=https%3A%2F%2Fvault.azure.net&api-version=2018-02-01", nil, 200, `"resource":"https://vault.azure.net"`},
		{"GUID resource", "GET", path + "?resource=11111111-1111-4111-8111-111111111111&api-version=2018-02-01", nil, 200, ""},
		{"newer version", "GET", path + "?resource=x&api-version=2030-01-01", nil, 200, ""},

		{"no header", "GET", path + query, []string{"Metadata", ""}, 400, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`},
		{"no header first of all", "GET", path, []string{"Metadata", "", "From", "10.9.9.9:1"}, 400, "Required metadata header"},
		{"header false", "GET", path + query, []string{"Metadata", "false"}, 400, "Required metadata header"},
		{"forwarded", "GET", path + query, []string{"X-Forwarded-For", "10.0.0.9"}, 400, "X-Forwarded-For"},
		{"no version", "GET", path + "?resource=x", nil, 400, "api-version"},
		{"odd version", "GET", path + "?resource=x&api-version=latest", nil, 400, "api-version"},
		{"no resource", "GET", path + "?api-version=2018-02-01", nil, 400, "resource"},
		{"malformed resource", "GET", path + "?api-version=2018-02-01&resource=a%20b", nil, 400, "AADSTS50001"},
		{"resource twice", "GET", path + query + "&resource=y", nil, 400, "more than once"},
		{"selector twice", "GET", path + query + "&client_id=a&Client_ID=a", nil, 400, "more than once"},
		{"both aliases", "GET", path + query + "&msi_res_id=a&mi_res_id=a", nil, 400, "more than once"},
		{"two selectors", "GET", path + query + "&client_id=a&object_id=b", nil, 400, "Only one of"},
		{"malformed query", "GET", path + query + "&a=%zz", nil, 400, "malformed"},
		{"POST", "POST", path + query, nil, 405, ""},
		{"unknown caller", "GET", path + query, []string{"From", "10.9.9.9:1"}, 401, "unknown_source"},
		{"not on the VM", "GET", path + query + "&client_id=44444444-4444-4444-8444-444444440001", nil, 400, "Identity not found"},
		{"VM without identities", "GET", path + query, []string{"From", "10.0.0.5:1"}, 400, "Identity not found"},

		{"other cloud's path", "GET", "/latest/meta-data", nil, 404, ""},
		{"root", "GET", "/", nil, 404, ""},
		{"metadata alone", "GET", "/metadata/", nil, 404, ""},
		{"unknown identity path", "GET", "/metadata/identity/x", nil, 404, ""},
		{"instance without version", "GET", "/metadata/instance", nil, 400, "newest-versions"},
		{"versions", "GET", "/metadata/versions", []string{"Metadata", ""}, 200, "2018-02-01"},
		{"info", "GET", "/metadata/identity/info?api-version=2018-02-01", nil, 200, world.DefaultTenant},
		{"platform metadata", "GET", "/metadata/identity/getPlatformMetadata?cred-api-version=2.0", nil, 200, "cuId"},
		{"credential", "POST", "/metadata/identity/issuecredential", nil, 200, "client_id"},
		{"attested", "GET", "/metadata/attested/document?api-version=2021-02-01&nonce=1", nil, 200, "pkcs7"},
		{"long nonce", "GET", "/metadata/attested/document?api-version=2021-02-01&nonce=12345678901", nil, 400, ""},
		{"events", "GET", "/metadata/scheduledevents?api-version=2020-07-01", nil, 200, `"Events":[]`},
		{"load balancer", "GET", "/metadata/loadbalancer?api-version=2020-10-01", nil, 200, "loadbalancer"},
		{"instance by POST", "POST", "/metadata/instance?api-version=2021-02-01", nil, 405, ""},

		{"upper case", "GET", "/METADATA/Identity/OAuth2/Token" + query, nil, 200, "access_token"},
		{"doubled slash", "GET", "/metadata//identity/oauth2/token" + query, nil, 200, "access_token"},
		{"dots", "GET", "/metadata/instance/../identity/oauth2/token" + query, nil, 200, "access_token"},
		{"escaped slash", "GET", "/metadata/identity%2foauth2/token" + query, nil, 200, "access_token"},
		{"backslash", "GET", "/metadata/identity%5coauth2/token" + query, nil, 200, "access_token"},
		{"path parameter", "GET", "/metadata/identity;x/oauth2/token" + query, nil, 200, "access_token"},
	}
	s := newService(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := s.do(test.method, test.target, test.header...)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if kind := w.Header().Get("Content-Type"); w.Body.Len() > 0 && kind != "application/json; charset=utf-8" {
				t.Errorf("content type %q", kind)
			}
		})
	}
}

// TestSameMachine: a caller at the service's own address is on this machine, and maps to the
// default machine.
func TestSameMachine(t *testing.T) {
	s := newService(t, nil)
	for remote, want := range map[string]int{"169.254.169.254:4000": 200, "169.254.169.253:4000": 401} {
		local := &net.TCPAddr{IP: net.IPv4(169, 254, 169, 254), Port: 80}
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, local), "GET", path+query, nil)
		r.RemoteAddr = remote
		r.Header.Set("Metadata", "true")
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", remote, w.Code, want)
		}
	}
}

// TestTokenFields: the response is compact and complete, and all values are strings. Clients fail
// otherwise.
func TestTokenFields(t *testing.T) {
	s := newService(t, nil)
	body := s.do("GET", path+query).Body.String()
	var got map[string]string
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(got["access_token"], claims); err != nil {
		t.Fatal(err)
	}
	if claims["tid"] != world.DefaultTenant || claims["xms_mirid"] != ids+"vm-identity" {
		t.Errorf("claims %v", claims)
	}
	delete(got, "access_token")
	want := map[string]string{
		"client_id": "44444444-4444-4444-8444-444444440000", "expires_in": "86400", "ext_expires_in": "86400",
		"expires_on": "1795262400", "not_before": "1795176000", "resource": "https://vault.azure.net", "token_type": "Bearer",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(body, `"not_before":"1`) || strings.ContainsAny(body, " \n") {
		t.Errorf("not compact: %s", body)
	}
}

func TestChoice(t *testing.T) {
	system := &world.SystemIdentity{ClientID: world.GUID("sc"), PrincipalID: world.GUID("so")}
	vmID, demo, other := ids+"vm-identity", ids+"demo-identity", ids+"other-identity"
	tests := []struct {
		name     string
		system   bool
		on       []string
		selector string
		want     string // the client ID, or the refusal's text
	}{
		{"none there", false, nil, "", "Identity not found"},
		{"the only one", false, []string{demo}, "", "…1"},
		{"system first", true, []string{demo}, "", system.ClientID},
		{"two and none named", false, []string{demo, vmID}, "", "Multiple user assigned identities exist"},
		{"system among two", true, []string{demo, vmID}, "", system.ClientID},
		{"client ID", true, []string{demo, vmID}, "client_id=44444444-4444-4444-8444-444444440001", "…1"},
		{"object ID", true, []string{demo, vmID}, "object_id=55555555-5555-4555-8555-555555550000", "…0"},
		{"principal ID", true, []string{demo, vmID}, "principal_id=55555555-5555-4555-8555-555555550000", "…0"},
		{"resource ID", true, []string{demo, vmID}, "msi_res_id=" + strings.ToUpper(demo), "…1"},
		{"resource ID, other name", true, []string{demo, vmID}, "mi_res_id=" + vmID, "…0"},
		{"system by client ID", true, nil, "client_id=" + strings.ToUpper(system.ClientID), system.ClientID},
		{"exists, but elsewhere", true, []string{demo}, "mi_res_id=" + other, "Identity not found"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newService(t, func(d *world.Document) {
				d.VirtualMachines[0].Identities = test.on
				if test.system {
					d.VirtualMachines[0].SystemAssigned = system
				}
			})
			body := s.do("GET", path+query+"&"+test.selector).Body.String()
			want := test.want
			if n, ok := strings.CutPrefix(want, "…"); ok {
				want = "44444444-4444-4444-8444-44444444000" + n
			}
			if !strings.Contains(body, want) {
				t.Errorf("%s, want %s", body, want)
			}
		})
	}
}

func TestCache(t *testing.T) {
	s := newService(t, nil)
	ask := func() (text, in string) {
		var answer map[string]string
		if err := json.Unmarshal(s.do("GET", path+query).Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		return answer["access_token"], answer["expires_in"]
	}
	first, _ := ask()
	s.now = s.now.Add(time.Hour)
	if again, in := ask(); again != first || in != "82800" {
		t.Errorf("after an hour: the same token %v, expires in %s", again == first, in)
	}
	s.now = s.now.Add(11 * time.Hour)
	if again, in := ask(); again == first || in != "86400" {
		t.Errorf("after half of its life: the same token %v, expires in %s", again == first, in)
	}
}

func TestLimits(t *testing.T) {
	s := newService(t, func(d *world.Document) {
		d.Settings.Limits.Enabled = true
		d.ScaleSets[0].Identities = []string{ids + "demo-identity"}
	})
	count := func(target string, header ...string) (n int) {
		for {
			w := s.do("GET", target, header...)
			if w.Code != 200 {
				if w.Code != 429 || w.Header().Get("Retry-After") != "1" {
					t.Errorf("%d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
				}
				return n
			}
			n++
		}
	}
	if n := count(path + query); n != 20 {
		t.Errorf("%d token requests", n)
	}
	if n := count("/metadata/instance?api-version=2021-02-01"); n != 5 {
		t.Errorf("%d other requests", n)
	}
	if n := count(path+query, "From", "10.0.0.5:1"); n != 20 {
		t.Errorf("%d token requests of another VM", n)
	}
	if w := s.do("GET", path, "Metadata", ""); w.Code != 400 {
		t.Errorf("a probe is limited: %d", w.Code)
	}
}

func TestInstance(t *testing.T) {
	s := newService(t, func(d *world.Document) { d.ScaleSets[0].Tags = map[string]string{"b": "2", "a": "1"} })
	tests := []struct {
		target string
		status int
		want   string
	}{
		{"compute/location?format=text&", 200, "westeurope"},
		{"compute/VMScaleSetName?format=text&", 200, "vmss-0"},
		{"compute/name?format=text&", 200, "vmss-0_1"},
		{"compute/tags?format=text&", 200, "a:1;b:2"},
		{"network/interface/0/ipv4/ipAddress/0/privateIpAddress?format=text&", 200, "10.0.0.6"},
		{"network?format=text&", 200, "interface/"},
		{"compute/location?", 400, ""},
		{"compute/nothing?format=text&", 404, ""},
		{"network/interface/7?", 404, ""},
		{"network/interface/-1?", 404, ""},
	}
	for _, test := range tests {
		w := s.do("GET", "/metadata/instance/"+test.target+"api-version=2021-02-01", "From", "10.0.0.6:1")
		if w.Code != test.status || (test.want != "" && w.Body.String() != test.want) {
			t.Errorf("%s: %d %q, want %q", test.target, w.Code, w.Body, test.want)
		}
	}
}

// FuzzRequest: no path or query causes a panic, and no request without the header gets a token.
func FuzzRequest(f *testing.F) {
	f.Add(path, "api-version=2018-02-01&resource=x")
	f.Add("/metadata/instance/network/interface/0/ipv4", "api-version=2021-02-01&format=text")
	f.Add(`\metadata\..\..`, "a=%zz;b")
	s := newService(f, nil)
	f.Fuzz(func(t *testing.T, path, query string) {
		for _, header := range []string{"true", ""} {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
			r.URL.Path, r.URL.RawQuery, r.RemoteAddr = path, query, "10.0.0.4:1"
			r.Header.Set("Metadata", header)
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if header == "" && strings.Contains(w.Body.String(), "access_token") {
				t.Errorf("a token without the header for %q %q", path, query)
			}
		}
	})
}
