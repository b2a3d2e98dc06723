package token

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// largeSource gives tokens of a size.
type largeSource struct {
	fakeSource
	bytes int
}

func (s *largeSource) Token(ctx context.Context, r Request) (*Token, error) {
	t, err := s.fakeSource.Token(ctx, r)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		t.Fields["padding"] = json.RawMessage(strings.Repeat("x", s.bytes))
	}
	return t, err
}

// TestLargeTokens: large ones count as several.
func TestLargeTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &largeSource{fakeSource: fakeSource{life: time.Hour}, bytes: unit} // two units each
		c := newTestCache(t, s)
		for i := range 3 {
			mustGet(t, c, ask("a", fmt.Sprint(i)), fmt.Sprint("token ", i+1), Miss)
			pass(time.Second)
		}
		if tokens, units, _ := tally(c); tokens != 2 || units != 4 {
			t.Errorf("%d tokens, %d units of one identity; it may have 4", tokens, units)
		}
		for i := range 6 {
			mustGet(t, c, ask(fmt.Sprint("b", i), "x"), fmt.Sprint("token ", i+4), Miss)
			pass(time.Second)
		}
		if tokens, units, _ := tally(c); tokens != 4 || units != 8 {
			t.Errorf("%d tokens, %d units in all; there may be 8", tokens, units)
		}
		s.set(func(f *fakeSource) { s.bytes = 3 * unit })
		pass(time.Hour) // refreshed, or gone
		if _, units, byID := tally(c); units > 8 || units != byID {
			t.Errorf("%d units, %d by identity, after tokens grew", units, byID)
		}
	})
}

func tally(c *Cache) (tokens, units, byIdentity int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.perID {
		byIdentity += n
	}
	return len(c.entries), c.units, byIdentity
}

// TestGreedyAuthority: an authority of a tenant's choice cannot make the agent
// take more than a token's worth.
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
		"large token": {func(w http.ResponseWriter) { answer(w, maxEntraReply) }, 0, 500, entraAttempts},
		"large header": {func(w http.ResponseWriter) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			answer(w, 9)
		}, 0, 500, entraAttempts},
		"many tenants":  {func(w http.ResponseWriter) { answer(w, 40<<10) }, 100, 403, 0},
		"not too large": {func(w http.ResponseWriter) { answer(w, 4<<10) }, 100, 0, 101},
	} {
		t.Run(name, func(t *testing.T) {
			calls := make(chan struct{}, 1000)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls <- struct{}{}
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
			e := NewClientSecret(EntraConfig{Limiter: open{}, Meter: &meter{}, Roots: roots}, &secrets{data: map[string]map[string][]byte{"ns/a": {"clientSecret": []byte(theSecret)}}})
			e.client.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS13
			r := ask("a", "x")
			r.Identity.Spec.Type, r.Identity.Spec.TenantID, r.Identity.Spec.ADEndpoint = 1, "t", server.URL
			r.Identity.Spec.ClientPassword.Name = "a"
			for i := range test.tenants {
				r.Identity.Spec.AuxiliaryTenantIDs = append(r.Identity.Spec.AuxiliaryTenantIDs, fmt.Sprint("t", i))
			}
			got, err := e.Token(t.Context(), r)
			if test.status == 0 {
				if err != nil || got.size() > maxReplies {
					t.Errorf("%d bytes, %v", got.size(), err)
				}
			} else if f := failure(t, err); f.Status != test.status {
				t.Errorf("got %v", f)
			}
			if asked := len(calls); test.calls != 0 && asked != test.calls || asked > 101 || test.status == 403 && asked > 20 {
				t.Errorf("%d calls", asked)
			}
		})
	}
}
