package entra

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/keyfile/keyfiletest"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
)

// fakeEndpoint answers in order and repeats the last answer. An answer is a status with a body, and
// Retry-After before a bar; or an error; or a duration to hang.
type fakeEndpoint struct {
	answers []any
	seen    []url.Values
	paths   []string
}

func (o *fakeEndpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	text, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(text))
	o.seen, o.paths = append(o.seen, form), append(o.paths, r.URL.String())
	switch answer := o.answers[min(len(o.seen), len(o.answers))-1].(type) {
	case error:
		return nil, answer
	case time.Duration:
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(answer):
			return nil, errors.New("end of the hang")
		}
	case string:
		status, body, _ := strings.Cut(answer, " ")
		h := http.Header{}
		if wait, rest, ok := strings.Cut(body, "|"); ok {
			h.Set("Retry-After", wait)
			body = rest
		}
		var code int
		_, _ = fmt.Sscan(status, &code)
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
	panic("unknown answer")
}

// aadsts returns an error in Entra ID's format.
func aadsts(status, code int, kind, text string) string {
	body, _ := json.Marshal(map[string]any{
		"error": kind, "error_codes": []int{code},
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: 0 Correlation ID: 0 Timestamp: 0", code, text),
	})
	return fmt.Sprintf("%d %s", status, body)
}

const minted = `200 {"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"h.e30.s","id_token":"x"}`

func newFakeEndpoint(t *testing.T, kind v1.IdentityType, answers ...any) (*Source, *fakeEndpoint, *secrets, *v1.AzureIdentity) {
	t.Helper()
	authority, err := ParseAuthority("https://login.example/")
	if err != nil {
		t.Fatal(err)
	}
	s := &secrets{data: map[string]map[string][]byte{"shop/web": {"clientSecret": []byte(theSecret)}}}
	o := &fakeEndpoint{answers: answers}
	c := Config{Authority: authority, Calls: calls()}
	d := directory{config: c, secrets: s, client: &http.Client{Transport: o}}
	if kind == v1.Federated {
		d.cluster = &cluster{key: keyfiletest.EC(t, elliptic.P256()), known: map[string]bool{"shop.web": true}}
	}
	if kind == v1.ServicePrincipalCertificate {
		_, cert, key := keyfiletest.Certificate(t, keyfiletest.RSA(t))
		s.data["shop/web"] = map[string][]byte{"certificate": []byte(cert + key)}
	}
	id := sourcetest.Request("web", "").Identity
	id.Namespace, id.Spec.Type, id.Spec.TenantID, id.Spec.ResourceID = "shop", kind, "contoso.example", ""
	id.Spec.ClientID = "0a1b2c3d-0000-4111-8222-333344445555"
	id.Spec.ClientPassword.Name = "web"
	return d.source(kind), o, s, id
}

func TestEntraErrors(t *testing.T) {
	invalid := func(code int) string {
		return aadsts(401, code, "invalid_client", "Some words about app '0a1b2c3d-0000-4111-8222-333344445555'.")
	}
	bad := func(code int) string { return aadsts(400, code, "invalid_request", "Some words.") }
	tests := []struct {
		name    string
		kind    v1.IdentityType // 0: with a secret
		answers []any
		status  int
		says    []string // in the message
		calls   int
		retry   time.Duration
	}{
		{name: "wrong secret", answers: []any{invalid(7000215)}, status: 403, says: []string{"AADSTS7000215", "Secret shop/web is wrong", "az ad app credential reset"}, calls: 1},
		{name: "expired secret", answers: []any{invalid(7000222)}, status: 403, says: []string{"Secret shop/web has expired", "az ad app credential reset"}, calls: 1},
		{name: "unknown application", answers: []any{bad(700016)}, status: 403, says: []string{"tenant contoso.example has no application with the client ID 0a1b2c3d…", "correct clientID or tenantID"}, calls: 1},
		{name: "unknown tenant", answers: []any{bad(90002)}, status: 403, says: []string{"no tenant contoso.example", "az account show"}, calls: 1},
		{name: "no service principal", answers: []any{bad(7000229)}, status: 403, says: []string{"az ad sp create"}, calls: 1},
		{name: "certificate", kind: 2, answers: []any{invalid(700027)}, status: 403, says: []string{"thumbprint", "Secret shop/web", "--cert"}, calls: 1},
		{name: "clock", kind: 2, answers: []any{invalid(700024)}, status: 500, says: []string{"clock"}, calls: 1},
		{name: "issuer", kind: 3, answers: []any{bad(700211)}, status: 403, calls: 1, says: []string{
			"the issuer of", "issuer https://cluster.example", "subject system:serviceaccount:podid-brokers:shop.web", "audience api://AzureADTokenExchange",
			"podid identity federate web -n shop",
		}},
		{name: "audience", kind: 3, answers: []any{bad(700212)}, status: 403, says: []string{"the audience of"}, calls: 1},
		{name: "subject", kind: 3, answers: []any{bad(700213)}, status: 403, says: []string{"the subject of"}, calls: 1},
		{name: "issuer's keys", kind: 3, answers: []any{bad(50166), minted}, calls: 2},
		{name: "resource", answers: []any{aadsts(400, 500011, "invalid_resource", "x")}, status: 400, says: []string{`"` + vault + `"`, "AADSTS500011"}, calls: 1},
		{name: "resource, 2", answers: []any{aadsts(400, 50001, "invalid_resource", "x")}, status: 400, calls: 1},
		{name: "scope", answers: []any{aadsts(400, 70011, "invalid_scope", "x")}, status: 400, calls: 1},
		{name: "anything else", answers: []any{aadsts(400, 53003, "access_denied", "Blocked by a policy.")}, status: 403, says: []string{"AADSTS53003: Blocked by a policy."}, calls: 1},
		{name: "code in the text only", answers: []any{`400 {"error":"invalid_request","error_description":"AADSTS90002: x"}`}, status: 403, says: []string{"no tenant"}, calls: 1},
		{name: "secret as the error", answers: []any{aadsts(400, 1, theSecret, "no")}, status: 403, says: []string{"not shown"}, calls: 1},
		{name: "echoed secret", answers: []any{aadsts(400, 1, "invalid_request", "you sent "+theSecret)}, status: 403, says: []string{"not shown"}, calls: 1},

		{name: "500, then good", answers: []any{"500 {}", minted}, calls: 2},
		{name: "503 for ever", answers: []any{`503 {"error":"temporarily_unavailable"}`}, status: 500, says: []string{"login.example", "try again"}, calls: 4},
		{name: "no connection", answers: []any{errors.New("refused")}, status: 500, says: []string{"does not answer: try again"}, calls: 4},
		{name: "hangs", answers: []any{time.Hour}, status: 500, says: []string{"try again"}, calls: 2},
		{name: "hangs once", answers: []any{time.Hour, minted}, calls: 2},
		{name: "a page", answers: []any{"200 <html>"}, status: 500, calls: 4},
		{name: "400, not its own words", answers: []any{"400 <html>", minted}, calls: 2},
		{name: "redirected", answers: []any{"302 {}"}, status: 500, calls: 4},
		{name: "transient by its code", answers: []any{bad(90033), minted}, calls: 2},
		{name: "429, a little", answers: []any{"429 1|{}", minted}, calls: 2},
		{name: "429, long", answers: []any{"429 60|{}"}, status: 429, retry: time.Minute, calls: 1},
		{name: "429, unsaid", answers: []any{"429 {}"}, status: 429, calls: 4},
		{name: "tenant throttled", answers: []any{strings.Replace(bad(90055), "400 ", "400 30|", 1)}, status: 429, retry: 30 * time.Second, calls: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.kind == 0 {
					tt.kind = v1.ServicePrincipal
				}
				source, o, _, id := newFakeEndpoint(t, tt.kind, tt.answers...)
				ctx, cancel := context.WithTimeout(t.Context(), 16*time.Second)
				defer cancel()
				got, err := source.Token(ctx, token.Request{Identity: id, Resource: vault})
				if len(o.seen) != tt.calls {
					t.Errorf("%d calls, want %d", len(o.seen), tt.calls)
				}
				if tt.status == 0 {
					if err != nil || got.Fields["id_token"] != nil || got.Fields["access_token"] == nil {
						t.Errorf("got %v", err)
					}
					return
				}
				f := failure(t, err)
				if f.Answer().Status != tt.status || f.RetryAfter != tt.retry {
					t.Errorf("%d, Retry-After %v", f.Answer().Status, f.RetryAfter)
				}
				for _, text := range tt.says {
					if !strings.Contains(f.Error(), text) {
						t.Errorf("no %q in %q", text, f.Error())
					}
				}
				if strings.Contains(f.Error(), id.Spec.ClientID) {
					t.Errorf("the whole client ID is in %q", f.Error())
				}
			})
		})
	}
}

// TestCooldown checks that Retry-After is obeyed for one identity.
func TestCooldown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, o, _, id := newFakeEndpoint(t, v1.ServicePrincipal, "429 60|{}", minted)
		r := token.Request{Identity: id, Resource: vault}
		_, _ = source.Token(t.Context(), r)
		<-time.After(20 * time.Second)
		_, err := source.Token(t.Context(), r)
		if f := failure(t, err); f.Answer().Status != 429 || f.RetryAfter != 40*time.Second || len(o.seen) != 1 {
			t.Fatalf("%v after %d calls", f, len(o.seen))
		}
		other := id.DeepCopy()
		other.Spec.ClientID = "other"
		if _, err := source.Token(t.Context(), token.Request{Identity: other, Resource: vault}); err != nil {
			t.Errorf("another identity: %v", err)
		}
		<-time.After(41 * time.Second)
		if _, err := source.Token(t.Context(), r); err != nil {
			t.Error(err)
		}
	})
}

func TestCooldownIsBounded(t *testing.T) {
	c, now := newCooldown(), time.Now()
	c.start(cooldownKey{"shop", "x"}, time.Second, now)
	for i := range 3 * maxCooldowns {
		c.start(cooldownKey{"hostile", fmt.Sprint(i)}, time.Minute+time.Duration(i), now)
	}
	if len(c.until) != maxCooldowns || c.left(cooldownKey{"hostile", fmt.Sprint(3*maxCooldowns - 1)}, now) == 0 || c.left(cooldownKey{"hostile", "0"}, now) != 0 {
		t.Errorf("%d remembered", len(c.until))
	}
	c.start(cooldownKey{"shop", "y"}, time.Minute, now) // takes the place of one of the others
	if c.left(cooldownKey{"shop", "x"}, now) == 0 {
		t.Error("another namespace evicted the entry")
	}
}

// TestSecretReread checks that a rejected secret is read again, and tried again only if it has
// changed.
func TestSecretReread(t *testing.T) {
	wrong := aadsts(401, 7000215, "invalid_client", "x")
	t.Run("changed", func(t *testing.T) {
		source, o, s, id := newFakeEndpoint(t, v1.ServicePrincipal, wrong, minted)
		s.next = map[string][]byte{"clientSecret": []byte("newer")}
		if _, err := source.Token(t.Context(), token.Request{Identity: id, Resource: vault}); err != nil {
			t.Fatal(err)
		}
		if s.reads != 2 || len(o.seen) != 2 || o.seen[1].Get("client_secret") != "newer" {
			t.Errorf("%d reads, %d calls", s.reads, len(o.seen))
		}
		if _, err := source.Token(t.Context(), token.Request{Identity: id, Resource: vault}); err != nil || s.reads != 3 {
			t.Errorf("the Secret was kept: %d reads, %v", s.reads, err)
		}
	})
	t.Run("changed, wrong again", func(t *testing.T) {
		source, o, s, id := newFakeEndpoint(t, v1.ServicePrincipal, wrong)
		s.next = map[string][]byte{"clientSecret": []byte("newer")}
		_, err := source.Token(t.Context(), token.Request{Identity: id, Resource: vault})
		if f := failure(t, err); f.Answer().Status != 403 || s.reads != 2 || len(o.seen) != 2 {
			t.Errorf("%v, %d reads, %d calls", f, s.reads, len(o.seen))
		}
	})
	t.Run("gone", func(t *testing.T) {
		source, o, s, id := newFakeEndpoint(t, v1.ServicePrincipal, wrong)
		s.next = map[string][]byte{}
		_, err := source.Token(t.Context(), token.Request{Identity: id, Resource: vault})
		if f := failure(t, err); f.Answer().Status != 403 || !strings.Contains(f.Message, "7000215") || s.reads != 2 || len(o.seen) != 1 {
			t.Errorf("%v, %d reads, %d calls", f, s.reads, len(o.seen))
		}
	})
}

// TestProofs checks the failures of proofs that cannot be read.
func TestProofs(t *testing.T) {
	private := keyfiletest.RSA(t)
	certificate, _, _ := keyfiletest.Certificate(t, private)
	pfx, err := pkcs12.Modern.Encode(private, certificate, nil, "x")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := func(resource string) error {
		return apierrors.NewForbidden(corev1.Resource(resource), "web", errors.New("denied"))
	}
	tests := []struct {
		name   string
		kind   v1.IdentityType
		change func(*secrets, *cluster, *v1.AzureIdentity)
		status int
		says   []string
	}{
		{name: "no Secret", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) { clear(s.data) }, status: 404, says: []string{"Secret shop/web does not exist"}},
		{
			name: "no right", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) { s.err = forbidden("secrets") }, status: 403,
			says: []string{"lacks a Role in namespace shop with the right to get secrets", "rbac.secretNamespaces"},
		},
		{name: "API server away", kind: 2, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) { s.err = context.DeadlineExceeded }, status: 500, says: []string{"Secret shop/web", "API server: try again"}},
		{name: "no key", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) {
			s.data["shop/web"] = map[string][]byte{"a": []byte(theSecret), "b": nil}
		}, status: 403, says: []string{"no key clientSecret"}},
		{name: "empty", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) { s.data["shop/web"]["clientSecret"] = []byte("\n") }, status: 403, says: []string{"no value"}},
		{name: "certificate and key as client secret", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) {
			s.data["shop/web"] = map[string][]byte{"tls.pem": []byte("\ufeff-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n")}
		}, status: 403, says: []string{"Secret shop/web, key tls.pem: it holds a certificate or a private key, which is not sent", "set type: 2", "key certificate"}},
		{name: "PFX in base64 as client secret", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) {
			s.data["shop/web"]["clientSecret"] = []byte(base64.StdEncoding.EncodeToString(pfx))
		}, status: 403, says: []string{"key clientSecret: it holds a certificate or a private key", "set type: 2"}},
		{name: "binary client secret", kind: 1, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) {
			s.data["shop/web"]["clientSecret"] = []byte("a\x00b")
		}, status: 403, says: []string{"binary", "put the client secret's value there"}},
		{name: "no certificate", kind: 2, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) {
			s.data["shop/web"] = map[string][]byte{"clientSecret": []byte(theSecret)}
		}, status: 403, says: []string{"no key certificate", "--from-file"}},
		{name: "garbage", kind: 2, change: func(s *secrets, _ *cluster, _ *v1.AzureIdentity) {
			s.data["shop/web"] = map[string][]byte{"certificate": []byte(theSecret)}
		}, status: 403, says: []string{"Secret shop/web, key certificate: it is neither a PFX"}},
		{
			name: "no broker", kind: 3, change: func(_ *secrets, c *cluster, _ *v1.AzureIdentity) { clear(c.known) }, status: 404,
			says: []string{"ServiceAccount podid-brokers/shop.web, does not exist", "podid identity federate web -n shop"},
		},
		{
			name: "broker forbidden", kind: 3, change: func(_ *secrets, c *cluster, _ *v1.AzureIdentity) { c.err = forbidden("serviceaccounts/token") }, status: 404,
			says: []string{"gets no token of ServiceAccount podid-brokers/shop.web", "create serviceaccounts/token"},
		},
		{name: "broker, API server away", kind: 3, change: func(_ *secrets, c *cluster, _ *v1.AzureIdentity) { c.err = errors.New("refused") }, status: 500, says: []string{"try again"}},
		{name: "adEndpoint is no URL", kind: 1, change: func(_ *secrets, _ *cluster, id *v1.AzureIdentity) { id.Spec.ADEndpoint = "http://login.example" }, status: 403, says: []string{"its adEndpoint must be an https URL"}},
		{name: "foreign audience, foreign authority", kind: 3, change: func(_ *secrets, _ *cluster, id *v1.AzureIdentity) {
			id.Spec.FederatedAudience, id.Spec.ADEndpoint = "https://kubernetes.default.svc", "https://evil.example"
		}, status: 403, says: []string{"https://evil.example", "federatedAudience", "--authority-host"}},
		{name: "tenant is a path", kind: 1, change: func(_ *secrets, _ *cluster, id *v1.AzureIdentity) { id.Spec.TenantID = "../x" }, status: 403, says: []string{"tenant"}},
		{name: "foreign Secret, foreign authority", kind: 1, change: func(s *secrets, _ *cluster, id *v1.AzureIdentity) {
			s.data["other/web"] = s.data["shop/web"]
			id.Spec.ClientPassword.Namespace, id.Spec.ADEndpoint = "other", "https://evil.example"
		}, status: 403, says: []string{"https://evil.example", "another namespace (other)", "--authority-host"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			source, o, s, id := newFakeEndpoint(t, tt.kind, minted)
			var c *cluster
			if f, ok := source.proofs.(brokerTokens); ok {
				c, _ = f.Brokers.(*cluster)
			}
			tt.change(s, c, id)
			_, err := source.Token(t.Context(), token.Request{Identity: id, Resource: vault})
			f := failure(t, err)
			if f.Answer().Status != tt.status || len(o.seen) != 0 {
				t.Errorf("%d after %d calls", f.Answer().Status, len(o.seen))
			}
			for _, text := range tt.says {
				if !strings.Contains(f.Message, text) {
					t.Errorf("no %q in %q", text, f.Message)
				}
			}
		})
	}
}
