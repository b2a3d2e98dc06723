// Which token a client gets, however it requests it.
package conformance_test

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/podid-io/podid/internal/emulator/world"
)

// question is a way to request a token, and the identity that must be used.
type question struct {
	name     string
	way      way
	env      []string
	excepted bool // sent from the pod with an exception
	want     string
	resource string // vault if empty
}

// cold stands for a resource that only this client requests.
const cold = "cold"

// systemAssigned stands for the node's own identity.
const systemAssigned = "system"

func questions() []question {
	return []question{
		{name: "two identities, none named", way: byNothing, want: first},
		{name: "client id", way: byClientID, env: []string{"CLIENT_ID=" + named(second).ClientID}, want: second},
		{name: "client id in capitals", way: byClientID, env: []string{"CLIENT_ID=" + strings.ToUpper(named(second).ClientID)}, want: second},
		{name: "object id", way: byObjectID, env: []string{"OBJECT_ID=" + named(second).PrincipalID}, want: second},
		{name: "resource id", way: byResourceID, env: []string{"RESOURCE_ID=" + named(second).ResourceID}, want: second},
		{name: "default chain", way: byChain, env: []string{"DEFAULT_CHAIN=1"}, want: first},
		{name: "default chain, AZURE_CLIENT_ID", way: byChain, env: []string{"DEFAULT_CHAIN=1", "AZURE_CLIENT_ID=" + named(second).ClientID}, want: second},
		{name: "default chain, token not in the agent's memory", way: byChain, env: []string{"DEFAULT_CHAIN=1"}, want: first, resource: cold},
		{name: "resource that ends with a slash", way: byClientID, env: []string{"CLIENT_ID=" + named(second).ClientID}, want: second, resource: arm},
		{name: "resource that is a GUID", way: byClientID, env: []string{"CLIENT_ID=" + named(second).ClientID}, want: second, resource: world.GUID("an application")},
		{name: "authority host", way: byAuthority, env: []string{"AZURE_POD_IDENTITY_AUTHORITY_HOST=http://" + metadataIP, "CLIENT_ID=" + named(second).ClientID}, want: second},
		{name: "service principal with a secret", way: byClientID, env: []string{"CLIENT_ID=" + named(secret).ClientID}, want: secret},
		{name: "service principal with a certificate", way: byClientID, env: []string{"CLIENT_ID=" + named(certificate).ClientID}, want: certificate},
		{name: "federated", way: byClientID, env: []string{"CLIENT_ID=" + named(federated).ClientID}, want: federated},
		{name: "federated, by object id", way: byObjectID, env: []string{"OBJECT_ID=" + named(federated).PrincipalID}, want: federated},
		{name: "federated, by resource id", way: byResourceID, env: []string{"RESOURCE_ID=" + named(federated).ResourceID}, want: federated},
		{name: "system-assigned, in an excepted pod", way: byNothing, excepted: true, want: systemAssigned},
		{name: "client id, in an excepted pod", way: byClientID, excepted: true, env: []string{"CLIENT_ID=" + named(second).ClientID}, want: second},
	}
}

// tokens requests tokens in all ways that the client supports.
func (w *stage) tokens(t *testing.T, c *sdk) {
	g := newGolden(c)
	for _, q := range questions() {
		if !c.can[q.way] {
			continue
		}
		t.Run(q.name, func(t *testing.T) {
			resource := q.resource
			switch resource {
			case "":
				resource = vault
			case cold:
				resource = "https://" + plain(c.name) + ".example"
			}
			p := c.pod
			if q.excepted {
				p = c.excepted
			}
			w.cpu <- struct{}{}
			h, sent := w.asked(t, c, p, append(q.env, "RESOURCE="+resource)...)
			<-w.cpu
			g.add(q.name, sent)
			w.check(t, h, q.want, resource)
		})
	}
	if !t.Failed() {
		g.compare(t, c)
	}
}

// check checks a token as a service would: its signature and its claims.
func (w *stage) check(t *testing.T, h output, want, resource string) {
	t.Helper()
	if h.failure != "" {
		t.Errorf("no token: %s", h.failure)
		return
	}
	claims := w.verified(t, h.Token)
	client, object := named(want).ClientID, named(want).PrincipalID
	if want == systemAssigned {
		client, object = system().ClientID, system().PrincipalID
	}
	for claim, value := range map[string]string{"appid": client, "oid": object, "aud": resource, "tid": world.DefaultTenant} {
		if got, _ := claims[claim].(string); !strings.EqualFold(got, value) {
			t.Errorf("the token's %s is %q, want %q", claim, got, value)
		}
	}
	if h.ExpiresIn < 60*60 || h.ExpiresIn > 25*60*60 {
		t.Errorf("the client takes the token to end in %d s", h.ExpiresIn)
	}
}

// verified verifies a token with the emulated Entra ID's keys and returns its claims.
func (w *stage) verified(t *testing.T, text string) jwt.MapClaims {
	t.Helper()
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(text, claims, func(token *jwt.Token) (any, error) {
		resp, err := w.inside.Get(w.azure.Endpoints().Entra + "/" + world.DefaultTenant + "/discovery/v2.0/keys")
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return nil, errors.New("read the keys: " + resp.Status)
		}
		var set struct{ Keys []struct{ Kid, N, E string } }
		if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
			return nil, err
		}
		for _, key := range set.Keys {
			if key.Kid == token.Header["kid"] {
				n, err1 := base64.RawURLEncoding.DecodeString(key.N)
				e, err2 := base64.RawURLEncoding.DecodeString(key.E)
				return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, errors.Join(err1, err2)
			}
		}
		return nil, errors.New("signed by nobody that is known")
	}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
	if err != nil {
		t.Errorf("the token does not verify: %v", err)
	}
	return claims
}
