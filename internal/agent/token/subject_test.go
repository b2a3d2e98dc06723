package token

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	shopClient    = "11111111-2222-3333-4444-555555555555"
	victimClient  = "99999999-8888-7777-6666-555555555555"
	group         = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourcegroups/g/providers/"
	shopResource  = group + "Microsoft.ManagedIdentity/userAssignedIdentities/shop"
	otherResource = group + "Microsoft.ManagedIdentity/userAssignedIdentities/victim"
	machine       = group + "Microsoft.Compute/virtualMachineScaleSets/nodes"
)

// jwtOf is an unsigned JWT with these claims.
func jwtOf(claims map[string]any) string {
	payload, _ := json.Marshal(claims) // of strings
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2lnbmF0dXJl"
}

// replyOf is a token reply; clientID may be empty.
func replyOf(access, clientID string) string {
	fields := map[string]string{"access_token": access, "expires_in": "3600"}
	if clientID != "" {
		fields["client_id"] = clientID
	}
	body, _ := json.Marshal(fields) // of strings
	return string(body)
}

// inGroup is an identity in a resource group of that name.
func inGroup(name string) string {
	return "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/" + name + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x"
}

// TestTokenOfAnotherIdentity checks every reply of the metadata service against the identity
// decided on: by client ID and by resource ID, of the reply and of the token.
func TestTokenOfAnotherIdentity(t *testing.T) {
	type claims map[string]any
	both := v1.AzureIdentitySpec{ClientID: shopClient, ResourceID: shopResource}
	managed := v1.AzureIdentitySpec{ClientID: shopClient}
	noClient := v1.AzureIdentitySpec{ResourceID: shopResource}
	kubelet := func(clientID, resourceID string) bool {
		return clientID == victimClient || resourceID == strings.ToLower(otherResource)
	}
	for _, c := range []struct {
		name    string
		spec    v1.AzureIdentitySpec
		replied string // client_id beside the token
		claims  claims // nil: an opaque token
		cluster func(clientID, resourceID string) bool
		allow   bool
		reason  string // of the 403; "" when the token goes out
	}{
		{name: "matches", spec: both, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": shopResource}},
		{
			name: "matches but for case and slash", replied: strings.ToUpper(shopClient), claims: claims{"azp": shopClient, "xms_mirid": strings.ToUpper(shopResource)},
			spec: v1.AzureIdentitySpec{ClientID: shopClient, ResourceID: strings.Replace(shopResource, "resourcegroups", "resourceGroups", 1) + "/"},
		},
		{name: "client ID of another, in the reply", spec: both, replied: victimClient, reason: ReasonOtherIdentity},
		{name: "client ID of another, in the token", spec: both, claims: claims{"appid": victimClient}, reason: ReasonOtherIdentity},
		{name: "client ID of another, version 2", spec: both, claims: claims{"azp": victimClient}, reason: ReasonOtherIdentity},
		{name: "reply lies about the token", spec: both, replied: shopClient, claims: claims{"appid": victimClient}, reason: ReasonOtherIdentity},
		{name: "resource ID of another", spec: both, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": otherResource}, reason: ReasonOtherIdentity},
		{name: "resource ID of another, alone", spec: noClient, claims: claims{"xms_mirid": otherResource}, reason: ReasonOtherIdentity},
		{
			name: "Azure spells the group in the other case", spec: v1.AzureIdentitySpec{ResourceID: inGroup("\u00c9t\u00e9")},
			claims: claims{"xms_mirid": inGroup("\u00e9t\u00e9")},
		},
		{name: "a group that imitates another", spec: v1.AzureIdentitySpec{ResourceID: inGroup("bank")}, claims: claims{"xms_mirid": inGroup("ban\u212a")}, reason: ReasonOtherIdentity},
		{name: "not equal by Unicode's rules", spec: noClient, claims: claims{"xms_mirid": strings.Replace(shopResource, "shop", "\u017fhop", 1)}, reason: ReasonOtherIdentity},
		{name: "opaque token, client ID matches", spec: both, replied: shopClient},
		{name: "opaque token, nothing said", spec: both},
		{name: "no client ID in the spec", spec: noClient, replied: victimClient, claims: claims{"appid": victimClient, "xms_mirid": shopResource}},
		{name: "claims of odd types", spec: both, claims: claims{"oid": 5, "appid": []string{victimClient}, "xms_mirid": 7}, reason: ReasonOtherIdentity},

		{name: "managed mode", spec: managed, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": otherResource}},
		{name: "managed mode, opaque", spec: managed, replied: shopClient},
		{name: "managed mode, another", spec: managed, replied: victimClient, reason: ReasonOtherIdentity},

		{name: "system-assigned", spec: managed, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": machine}, reason: ReasonClusterIdentity},
		{name: "system-assigned, allowed", spec: managed, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": machine}, allow: true},
		{name: "system-assigned of another client ID, allowed", spec: managed, replied: victimClient, claims: claims{"xms_mirid": machine}, allow: true, reason: ReasonOtherIdentity},
		{name: "cluster's, by the spec", spec: v1.AzureIdentitySpec{ClientID: victimClient}, cluster: kubelet, reason: ReasonClusterIdentity},
		{name: "cluster's, by the token's client ID", spec: noClient, claims: claims{"appid": victimClient}, cluster: kubelet, reason: ReasonClusterIdentity},
		{name: "cluster's, by the reply", spec: noClient, replied: victimClient, cluster: kubelet, reason: ReasonClusterIdentity},
		{name: "cluster's, by the token's resource ID", spec: managed, claims: claims{"xms_mirid": otherResource}, cluster: kubelet, reason: ReasonClusterIdentity},
		{name: "cluster's, allowed", spec: v1.AzureIdentitySpec{ClientID: victimClient}, replied: victimClient, cluster: kubelet, allow: true},
		{name: "not the cluster's", spec: both, replied: shopClient, cluster: kubelet},
	} {
		t.Run(c.name, func(t *testing.T) {
			access := "opaque"
			if c.claims != nil {
				access = jwtOf(c.claims)
			}
			source, asked, m := newScript("200 " + replyOf(access, c.replied))
			source.cfg.ClusterIdentity = func(clientID, resourceID string) bool { return c.cluster != nil && c.cluster(clientID, resourceID) }
			if c.allow {
				source.cfg.ClusterIdentity = nil
			}
			r := ask("a", "x")
			r.Identity.Spec = c.spec
			got, err := source.Token(t.Context(), r)
			if err == nil && got.OfCluster() != "" {
				got, err = nil, RefuseCluster(got, r.Identity)
			}
			if len(asked.seen) != 1 {
				t.Errorf("the service was asked %d times", len(asked.seen))
			}
			if c.reason == "" {
				if err != nil || got == nil {
					t.Errorf("got %v", err)
				}
				return
			}
			f := failure(t, err)
			if f.Status != http.StatusForbidden || f.Reason != c.reason || f.passing() || got != nil {
				t.Errorf("got %+v, want 403 %s", f, c.reason)
			}
			if text := f.Error(); strings.Contains(text, shopClient) || strings.Contains(text, victimClient) || strings.Contains(text, access) {
				t.Errorf("the error has a whole client ID or the token: %s", text)
			}
			if strings.Contains(f.Message, otherResource) || strings.Contains(f.Message, machine) {
				t.Errorf("the pod is told of another's resource: %s", f.Message)
			}
			if c.reason == ReasonOtherIdentity && m.errors != 1 {
				t.Errorf("%d errors counted", m.errors)
			}
		})
	}
}

// TestOtherIdentityThroughCache checks that a token of another identity leaves the cache by no way,
// and that a refusal is remembered: ahead of requests, by request, by object ID, and when a token
// in use is refreshed.
func TestOtherIdentityThroughCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		subject, calls := victimClient, 0
		answer := func() string {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return replyOf(jwtOf(map[string]any{"appid": subject, "oid": "object of " + subject}), subject)
		}
		count := func() int { mu.Lock(); defer mu.Unlock(); return calls }
		become := func(client string) { mu.Lock(); defer mu.Unlock(); subject = client }
		c := newAgent(t, &service{})
		c.cfg.Source.(*IMDS).client = &http.Client{Transport: transport(func() *http.Response { return answerOK(answer()) })}
		r := ask("a", "x")
		r.Identity.Spec = v1.AzureIdentitySpec{ClientID: shopClient, ResourceID: shopResource}

		ahead := r
		ahead.Caller = Background
		for range 50 {
			for _, r := range []Request{ahead, r} {
				if got, _, err := c.Get(t.Context(), r); got != nil || failure(t, err).Reason != ReasonOtherIdentity {
					t.Fatalf("got %v, %v", got, err)
				}
			}
			pass(20 * time.Millisecond)
		}
		if count() != 1 || c.ObjectID(r) != "" || size(c) != 0 {
			t.Errorf("%d calls in a second, object ID %q, %d tokens", count(), c.ObjectID(r), size(c))
		}

		become(shopClient) // the spec or Azure was corrected
		pass(time.Minute)
		first, _, err := c.Get(t.Context(), r)
		if err != nil || c.ObjectID(r) != "object of "+shopClient {
			t.Fatalf("object ID %q, %v", c.ObjectID(r), err)
		}

		become(victimClient) // while the token is in use and refreshed
		for range 70 {
			pass(time.Minute)
			got, _, err := c.Get(t.Context(), r)
			switch {
			case first.valid(time.Now()) && (err != nil || got != first):
				t.Fatalf("the valid token is not served: %v", err)
			case !first.valid(time.Now()) && (got != nil || failure(t, err).Reason != ReasonOtherIdentity):
				t.Fatalf("got %v, %v", got, err)
			}
			if c.ObjectID(r) == "object of "+victimClient {
				t.Fatal("another identity's object ID was learned")
			}
		}
	})
}

// transport answers every request.
type transport func() *http.Response

// RoundTrip is http.RoundTripper.
func (f transport) RoundTrip(*http.Request) (*http.Response, error) { return f(), nil }

func answerOK(body string) *http.Response { return answer(http.StatusOK, http.Header{}, body) }

// TestTokenOfAnotherApplication checks the tokens of types 1 to 3, those for auxiliary tenants too.
func TestTokenOfAnotherApplication(t *testing.T) {
	own := app("secret")
	for _, c := range []struct {
		name   string
		first  map[string]any // claims of the first tenant's token, nil: opaque
		others map[string]any
		reason string
	}{
		{"opaque", nil, nil, ""},
		{"its own", map[string]any{"appid": strings.ToUpper(own)}, map[string]any{"azp": own}, ""},
		{"another's", map[string]any{"appid": world.GUID("x")}, nil, ReasonOtherIdentity},
		{"another's, version 2", map[string]any{"azp": world.GUID("x")}, nil, ReasonOtherIdentity},
		{"another's in an auxiliary tenant", map[string]any{"appid": own}, map[string]any{"appid": world.GUID("x")}, ReasonOtherIdentity},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				claims := c.first
				if !strings.HasPrefix(r.URL.Path, "/first/") {
					claims = c.others
				}
				access := "opaque"
				if claims != nil {
					access = jwtOf(claims)
				}
				_, _ = fmt.Fprint(w, replyOf(access, ""))
			}))
			defer server.Close()
			held := &secrets{data: map[string]map[string][]byte{"ns/a": {"clientSecret": []byte(theSecret)}}}
			e := NewClientSecret(EntraConfig{Limiter: open{}, Meter: &meter{}}, held)
			e.client = server.Client()
			r := ask("a", "x")
			r.Identity.Spec = v1.AzureIdentitySpec{
				Type: v1.ServicePrincipal, ClientID: own, TenantID: "first", AuxiliaryTenantIDs: []string{"second", "third"}, ADEndpoint: server.URL,
			}
			r.Identity.Spec.ClientPassword.Name = "a"
			got, err := e.Token(t.Context(), r)
			if c.reason == "" {
				if err != nil || len(got.Auxiliary) != 2 {
					t.Errorf("got %v", err)
				}
				return
			}
			if f := failure(t, err); f.Status != http.StatusForbidden || f.Reason != c.reason || !strings.Contains(f.Message, "spec.clientID") {
				t.Errorf("got %+v", f)
			}
		})
	}
}
