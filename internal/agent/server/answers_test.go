package server

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/imds"
)

const arm = "https://management.azure.com/"

func TestAnswers(t *testing.T) {
	const web, ip = "web", "10.9.0.2"
	two := func(w *world) {
		w.assign(web, ip, "one")
		w.bind(web, "two")
		w.state(web, "two", v1.StateAssigned, "", "")
		w.imds.has("two")
	}
	tests := []struct {
		name    string
		change  func(*settings)
		world   func(*world)
		method  string
		target  string
		headers []string
		status  int
		says    string // in the body
		header  string // "Name: value" of the answer
	}{
		{name: "token", world: func(w *world) { w.assign(web, ip, "one") }, target: tokenQuery(arm), status: 200, says: `"client_id":"` + clientID("one") + `"`},
		{name: "trailing slash", world: func(w *world) { w.assign(web, ip, "one") }, target: strings.Replace(tokenQuery(arm), "token?", "token/?", 1), status: 200},
		{name: "True", world: func(w *world) { w.assign(web, ip, "one") }, target: tokenQuery(arm), headers: []string{"Metadata: True"}, status: 200},
		{
			name: "odd headers", world: func(w *world) { w.assign(web, ip, "one") }, target: tokenQuery(arm), status: 200,
			headers: []string{"Content-Type: application/x-www-form-urlencoded;charset=utf-8", "Sec-Fetch-Mode: cors", "Cookie: a=b"},
		},

		{name: "probe", target: imds.TokenPath, headers: []string{"Metadata: "}, status: 400, says: "Required metadata header not specified"},
		{name: "probe, full query", target: tokenQuery(arm), headers: []string{"Metadata: "}, status: 400, says: "Required metadata header not specified"},
		{name: "probe, POST", method: "POST", target: imds.TokenPath, headers: []string{"Metadata: "}, status: 400},
		{name: "header false", target: tokenQuery(arm), headers: []string{"Metadata: false"}, status: 400},
		{
			name: "header not needed", change: func(s *settings) { s.server.HeaderRequired = false }, world: func(w *world) { w.assign(web, ip, "one") },
			target: tokenQuery(arm), headers: []string{"Metadata: "}, status: 200,
		},
		{name: "POST", method: "POST", target: tokenQuery(arm), status: 405, header: "Allow: GET"},
		{name: "HEAD", method: "HEAD", target: tokenQuery(arm), status: 405},
		{name: "through a proxy", target: tokenQuery(arm), headers: []string{"X-Forwarded-For: 1.2.3.4"}, status: 400},
		{name: "no resource", target: imds.TokenPath + "?api-version=2018-02-01", status: 400, says: "resource"},
		{name: "no version", target: imds.TokenPath + "?resource=r", status: 400, says: "api-version"},
		{name: "two selectors", target: tokenQuery(arm, "client_id=a", "object_id=b"), status: 400, says: "only one"},

		{name: "nobody", target: tokenQuery(arm), status: 500, says: "try again"},
		{name: "two pods", world: func(w *world) { w.assign(web, ip, "one"); w.pod("api", ip) }, target: tokenQuery(arm), status: 500},
		{name: "finished", world: func(w *world) {
			w.assign(web, ip, "one")
			w.pod(web, ip, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		}, target: tokenQuery(arm), status: 500},
		{name: "host network", world: func(w *world) {
			w.assign(web, ip, "one")
			w.pod(web, ip, func(p *corev1.Pod) { p.Spec.HostNetwork = true })
		}, target: tokenQuery(arm), status: 500},
		{name: "cluster unknown", change: func(s *settings) { s.unknown = true }, target: tokenQuery(arm), status: 500, says: "does not know the cluster"},

		{name: "no label", world: func(w *world) { w.pod(web, ip, func(p *corev1.Pod) { p.Labels = nil }) }, target: tokenQuery(arm), status: 400, says: "Identity not found"},
		{name: "no binding", world: func(w *world) { w.pod(web, ip) }, target: tokenQuery(arm), status: 404, says: "AzureIdentityBinding"},
		{name: "no identity", world: func(w *world) {
			w.assign(web, ip, "one")
			w.authorize.RemoveIdentity(nameOf("one"))
		}, target: tokenQuery(arm), status: 404, says: "does not exist"},
		{name: "not assigned", world: func(w *world) { w.pod(web, ip); w.bind(web, "one") }, target: tokenQuery(arm), status: 404, says: "MIC has not assigned it"},
		{name: "created", world: func(w *world) { w.assign(web, ip, "one"); w.state(web, "one", v1.StateCreated, "", "") }, target: tokenQuery(arm), status: 404, says: "being assigned"},
		{
			name: "created, flag", change: func(s *settings) { s.server.RetryAfter = true },
			world:  func(w *world) { w.assign(web, ip, "one"); w.state(web, "one", v1.StateCreated, "", "") },
			target: tokenQuery(arm), status: 503, header: "Retry-After: 20",
		},
		{name: "no binding, flag", change: func(s *settings) { s.server.RetryAfter = true }, world: func(w *world) { w.pod(web, ip) }, target: tokenQuery(arm), status: 404},
		{name: "quarantined", world: func(w *world) {
			w.assign(web, ip, "one")
			w.state(web, "one", v1.StateCreated, "NotFoundOnAzure", "it was unreachable: create it")
		}, target: tokenQuery(arm), status: 403, says: "it was not reachable: create it"},
		{name: "broken", world: func(w *world) {
			w.assign(web, ip, "one")
			id := newIdentity("one")
			id.Spec.ResourceID = "nonsense"
			w.authorize.SetIdentity(id)
		}, target: tokenQuery(arm), status: 403, says: "resourceID"},
		{name: "other kind", world: func(w *world) {
			w.assign(web, ip, "one")
			id := newIdentity("one")
			id.Spec.Type, id.Spec.TenantID, id.Spec.ClientPassword.Name = v1.ServicePrincipal, "t", "s"
			w.authorize.SetIdentity(id)
		}, target: tokenQuery(arm), status: 403, says: "type 1, for which this node agent has no source"},
		{
			name: "managed", change: func(s *settings) { s.authorize.Standard = false },
			world: func(w *world) { w.pod(web, ip); w.bind(web, "one"); w.imds.has("one") }, target: tokenQuery(arm), status: 200,
		},

		{name: "by client id", world: two, target: tokenQuery(arm, "client_id="+strings.ToUpper(clientID("two"))), status: 200, says: clientID("two")},
		{name: "by resource id", world: two, target: tokenQuery(arm, "msi_res_id="+strings.ToUpper(resourceID("two"))), status: 200, says: clientID("two")},
		{name: "by object id", world: two, target: tokenQuery(arm, "object_id="+strings.ToUpper(objectID("two"))), status: 200, says: clientID("two")},
		{name: "by a wrong one", world: two, target: tokenQuery(arm, "client_id=nobody"), status: 400, says: "Identity not found"},
		{name: "by a wrong object id", world: two, target: tokenQuery(arm, "object_id=nobody"), status: 400, says: "Identity not found"},

		{name: "not on the node", world: func(w *world) { w.assign(web, ip, "one"); delete(w.imds.identities, "one") }, target: tokenQuery(arm), status: 404, says: "does not have the identity shop/one"},
		{name: "bad resource", world: func(w *world) {
			w.assign(web, ip, "one")
			w.imds.fall(func(rw http.ResponseWriter, _ *http.Request) bool {
				fail(rw, 400, "invalid_resource", "AADSTS50001: nope")
				return true
			})
		}, target: tokenQuery("nonsense"), status: 400, says: "AADSTS50001"},
		{name: "throttled", world: func(w *world) {
			w.assign(web, ip, "one")
			w.imds.fall(func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Retry-After", "7")
				fail(rw, 429, "too_many", "")
				return true
			})
		}, target: tokenQuery(arm), status: 429, header: "Retry-After: 7"},
		{name: "imds ill", world: func(w *world) {
			w.assign(web, ip, "one")
			w.imds.fall(func(rw http.ResponseWriter, _ *http.Request) bool {
				fail(rw, 500, "unknown", "secret detail")
				return true
			})
		}, target: tokenQuery(arm), status: 500, says: "try again"},

		{
			name: "excepted", world: func(w *world) { w.pod(web, ip); w.except(web); w.imds.has("one") },
			target: tokenQuery(arm, "client_id="+clientID("one"), "bypass_cache=true"), status: 200, says: `"future_field":"kept"`,
		},
		{name: "excepted, unknown id", world: func(w *world) { w.pod(web, ip); w.except(web) }, target: tokenQuery(arm), status: 400, says: "Identity not found"},

		{name: "instance", target: "/metadata/instance?api-version=2021-02-01", status: 200, says: "/metadata/instance"},
		{name: "instance, cased", target: "/Metadata/INSTANCE/compute?api-version=2021-02-01", status: 200, says: "/metadata/instance/compute"},
		{name: "instance, no header", target: "/metadata/instance?api-version=1", headers: []string{"Metadata: "}, status: 400, says: "header"},
		{name: "instance, no header, flag", change: func(s *settings) { s.server.HeaderRequired = false }, target: "/metadata/instance?api-version=1", headers: []string{"Metadata: "}, status: 400},
		{name: "instance, no version", target: "/metadata/instance", status: 400, says: "api-version was not specified"},
		{name: "instance, bad query", target: "/metadata/instance?a=%zz", status: 400},
		{name: "instance, blocked", change: func(s *settings) { s.server.BlockInstance = true }, target: "/metadata/instance?api-version=1", status: 403, says: "not for pods"},
		{name: "attested, blocked", change: func(s *settings) { s.server.BlockInstance = true }, target: "/metadata/attested/document?api-version=1", status: 403},
		{name: "versions, unblocked", change: func(s *settings) { s.server.BlockInstance = true }, target: "/metadata/versions?api-version=1", status: 200},
		{name: "acknowledge an event", method: "POST", target: "/metadata/scheduledevents?api-version=1", status: 405},
		{name: "imds v2 probe", target: "/metadata/identity/getplatformmetadata?cred-api-version=2.0", headers: []string{"Metadata: "}, status: 404},
		{name: "imds v2", target: "/metadata/identity/issuecredential", status: 404},
		{name: "not azure", target: "/latest/meta-data/", headers: []string{"Metadata: "}, status: 404},
		{name: "host token", target: "/host/token?resource=x", headers: []string{"podname: web", "podns: shop"}, status: 404},
		{name: "absolute form", target: "http://169.254.169.254/metadata/identity/info?api-version=1", status: 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.change)
			if tt.world != nil {
				tt.world(w)
			}
			method := tt.method
			if method == "" {
				method = http.MethodGet
			}
			got := w.do(context.Background(), method, w.listen(ip), tt.target, tt.headers...)
			if got.status != tt.status || !strings.Contains(got.body, tt.says) {
				t.Fatalf("got %d %s\nwant %d and %q", got.status, got.body, tt.status, tt.says)
			}
			if name, value, _ := strings.Cut(tt.header, ": "); got.header.Get(name) != value {
				t.Errorf("%s is %q, want %q", name, got.header.Get(name), value)
			}
			checkShape(t, got, method)
		})
	}
}

// checkShape checks what every answer must satisfy.
func checkShape(t *testing.T, got reply, method string) {
	t.Helper()
	if method != http.MethodHead && !json.Valid([]byte(got.body)) {
		t.Errorf("the body is no JSON: %s", got.body)
	}
	if got.header.Get("Content-Type") != imds.ContentType {
		t.Errorf("content type %q", got.header.Get("Content-Type"))
	}
	if got.header.Get("Server") != "" {
		t.Errorf("server %q: MSAL draws conclusions from that", got.header.Get("Server"))
	}
	if strings.Contains(got.body, "secret detail") {
		t.Error("the cause is for the log, not for the pod")
	}
}

func TestRegionBlockedEmpty(t *testing.T) {
	w := newWorld(t, func(s *settings) { s.server.BlockInstance = true })
	got := w.get(w.listen("10.9.0.2"), "/metadata/instance/compute/location?format=text&api-version=2021-01-01")
	if got.status != 403 || got.body != "" {
		t.Errorf("got %d %q, want 403 without a body: MSAL Python takes any body as the region", got.status, got.body)
	}
}

// TestHostilePaths sends spellings of the token path that a careless proxy would pass on. The node
// has an identity that no pod may use.
func TestHostilePaths(t *testing.T) {
	w := newWorld(t, nil)
	w.pod("web", "10.9.0.2", func(p *corev1.Pod) { p.Labels = nil })
	w.imds.has("nodes-own")
	address := w.listen("10.9.0.2")
	query := "?api-version=2018-02-01&resource=r&client_id=" + clientID("nodes-own")
	for _, path := range spellings() {
		for _, method := range []string{"GET", "POST", "PUT", "HEAD", "OPTIONS", "FOO", "PROPFIND"} {
			answer := raw(t, address, method+" "+path+query+" HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n"+
				"X-Http-Method-Override: GET\r\nX-Original-Url: "+imds.TokenPath+"\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(answer, "HTTP/1.1 4") || strings.Contains(answer, "access_token") {
				t.Errorf("%s %s: %s", method, path, answer)
			}
		}
	}
	if seen := w.imds.seen(); len(seen) > 0 {
		t.Errorf("passed on: %s", seen[0].URL)
	}
}

// spellings returns spellings of the token path, and of similar paths, that a careless proxy would
// pass on.
func spellings() []string {
	return []string{
		"//metadata/identity/oauth2/token", "/metadata//identity/oauth2/token", "/metadata/identity//oauth2/token/",
		"/metadata/./identity/oauth2/token", "/metadata/instance/../identity/oauth2/token", "/metadata/instance/%2e%2e/identity/oauth2/token",
		"/metadata/instance/..%2fidentity/oauth2/token", "/metadata/instance/..%5cidentity/oauth2/token", `/metadata/instance/..\identity\oauth2\token`,
		`/metadata\identity\oauth2\token`, "/metadata%2fidentity%2foauth2%2ftoken", "/%6detadata/%69dentity/oauth2/token",
		"/metadata/%2569dentity/oauth2/token", "/metadata/identity;a=b/oauth2/token", "/metadata/identity/oauth2/token;", "/METADATA/IDENTITY/OAUTH2/TOKEN",
		"/metadata/identity/oauth2/token%00", "/metadata/identity/oauth2/token%3f", "/metadata/instance%3f/../identity/oauth2/token",
		"http://169.254.169.254/metadata/identity/oauth2/token", "http://other.example/metadata//identity/oauth2/token", "//x/metadata/identity/oauth2/token",
		"/Metadata/Identity/info", "/metadata/IDENTITY/oauth2/tokens", "/metadata/identity%5cinfo", `/metadata/identity\info`, "/metadata/identity%255cinfo",
		"/metadata/identity%252finfo", "/metadata%c0%afidentity/info", "/metadata/%u0069dentity/info", "/metadata/\uff49dentity/info", "/metadata/identity;/info",
		"/metadata;x=y/identity/info", "/metadata/./identity/info", "/metadata/instance/..;/identity/info", "/metadata/identity/issuecredential", "/metadata/identity%09/info",
	}
}

// raw sends bytes and returns the answer.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestPassedOnIsOurs(t *testing.T) {
	w := newWorld(t, nil)
	got := w.get(w.listen("10.9.0.2"), "/metadata/instance/compute?api-version=2021-02-01&format=json",
		"User-Agent: waagent", "Cookie: secret", "X-Evil: 1", "Authorization: x", "Connection: X-Forwarded-For")
	if got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	r := w.imds.seen()[0]
	if r.Host != w.imds.address || r.URL.String() != "/metadata/instance/compute?api-version=2021-02-01&format=json" {
		t.Errorf("passed on to %s as %s", r.Host, r.URL)
	}
	for name := range r.Header {
		if !strings.Contains("Metadata User-Agent Accept-Encoding", name) {
			t.Errorf("header %s went along", name)
		}
	}
}

func TestLongAnswerRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.imds.fall(func(rw http.ResponseWriter, _ *http.Request) bool {
		_, _ = rw.Write(make([]byte, maxUpstream+1))
		return true
	})
	w.get(w.listen("10.9.0.2"), "/metadata/instance?api-version=1").want(t, 502)
}

func TestBodies(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	address := w.listen("10.9.0.2")
	for length, want := range map[int]int{10: 200, maxBody + 1: 413} {
		req, err := http.NewRequest(http.MethodGet, "http://"+address+tokenQuery(arm), io.LimitReader(zeros{}, int64(length)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Metadata", "true")
		resp, err := client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes: got %d, want %d", length, resp.StatusCode, want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
