// Package token holds the tokens of the node: a cache in front of the sources that mint them. The
// sources are in token/imds (managed identities) and token/entra (all others). The cache does not
// decide who may have a token: its caller must have decided so for every request.
package token

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Source mints tokens. Its error is ErrBusy, or one that errors.As finds a *reason.Refusal in.
type Source interface {
	Token(ctx context.Context, r Request) (*Token, error)
}

// Request asks for a token.
type Request struct {
	Identity *v1.AzureIdentity
	// Resource is what the token is for, verbatim.
	Resource string
	// Caller is the pod that the call of the source counts for, as namespace/name. Namespaces take
	// turns, and so do the pods of each.
	Caller string
	// Revoked is the hexadecimal SHA-256 of a token that the client reports as revoked. If it is
	// the token held, the cache gets a new one. Usually it is empty.
	Revoked string
	// Wanted, of a request in the Background, gets the name of the first caller that comes to wait
	// for it. From then on the request counts for that caller. Nil otherwise.
	Wanted <-chan string
}

// Token is a token with everything that its source returned. It prints as a mask. It is immutable
// once the cache has it.
type Token struct {
	// Fields is the source's whole reply. The cache drops it once Body is made.
	Fields map[string]json.RawMessage
	// NotBefore and ExpiresOn are the token's own times. Until ExtendedOn it may be used in an
	// outage (zero: no longer than ExpiresOn).
	NotBefore, ExpiresOn, ExtendedOn time.Time
	// Obtained is when the source returned it, which may be late in its life.
	Obtained time.Time
	// ObjectID is the object ID of the identity, "" if the token does not have it.
	ObjectID string
	// Auxiliary are the tokens for further tenants of a multi-tenant application, in the order of
	// its spec. The token's times are the shortest of them all. The function that renders the reply
	// drops them.
	Auxiliary []*Token
	// ClusterEvidence returns why the token is one of the cluster's own identities, as far as they
	// are known now, or "". Nil: it cannot be one.
	ClusterEvidence func() string
	// Body is the reply, ready to send.
	Body Body

	since time.Time         // when the source first returned it, zero: Obtained
	sum   [sha256.Size]byte // of the access token
	units int               // of its size
}

// OfCluster returns why the token is one of the cluster's own identities, or "". The caller hands
// out such a token only if the policy names the identity.
func (t *Token) OfCluster() string {
	if t.ClusterEvidence == nil {
		return ""
	}
	return t.ClusterEvidence()
}

// Size returns the size of the source's reply in bytes, auxiliary tokens included.
func (t *Token) Size() int {
	n := 0
	for name, value := range t.Fields {
		n += len(name) + len(value)
	}
	for _, other := range t.Auxiliary {
		n += other.Size()
	}
	return n
}

// Body is a serialized reply. Append fills in the seconds that are left.
type Body interface {
	Append(dst []byte, now time.Time) []byte
}

// Format writes a mask, whatever the verb: tokens are not for logs.
func (t *Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[token]")) }

// valid reports whether the token can still be used. A nil token cannot.
func (t *Token) valid(now time.Time) bool { return t != nil && now.Before(t.ExpiresOn) }

// hash computes the access token's SHA-256, before Fields is dropped.
func (t *Token) hash() {
	var access string
	if json.Unmarshal(t.Fields["access_token"], &access) == nil && access != "" {
		t.sum = sha256.Sum256([]byte(access))
	}
}

// hasSum reports whether the token has that SHA-256, in hexadecimal.
func (t *Token) hasSum(sum string) bool {
	return t.sum != [sha256.Size]byte{} && ascii.EqualFold(sum, hex.EncodeToString(t.sum[:]))
}

// life returns how long the token lasts in all, as far as is known: the source may have a cache of
// its own and return a token late, and more than once.
func (t *Token) life() time.Duration {
	began := t.Obtained
	for _, earlier := range []time.Time{t.NotBefore, t.since} {
		if !earlier.IsZero() && earlier.Before(began) {
			began = earlier
		}
	}
	return t.ExpiresOn.Sub(began)
}

// longEnough is a remaining time that any client accepts. Clients treat a token with less than five
// minutes as expired and come back at once.
const longEnough = 5 * time.Minute

// minLeft returns the least time a fresh token has left: longEnough, or a quarter of a short life.
func (t *Token) minLeft() time.Duration { return min(longEnough, t.life()/4) }

// fresh reports whether the token can be handed out without looking for a newer one.
func (t *Token) fresh(now time.Time) bool {
	if t == nil {
		return false
	}
	left := t.ExpiresOn.Sub(now)
	return left > longEnough || left > t.minLeft()
}

// refreshIn returns how long to wait before asking for the next token: 80 % of the time left, and
// early enough to stay fresh. spread, from 0 to 1, shortens it by up to a tenth, so that nodes and
// tokens do not refresh in step. If it is too late for that, because the source has no newer token,
// it is a third of the time left and at most a minute.
func (t *Token) refreshIn(now time.Time, spread float64) time.Duration {
	left := t.ExpiresOn.Sub(now)
	in := min(left/10*8, left-t.minLeft()*5/4) // in this order: 40 years * 8 overflow a Duration
	in -= time.Duration(float64(in) * spread / 10)
	return max(in, min(left/3, time.Minute), time.Second)
}

// MaxRetryAfter bounds how long a source's Retry-After is obeyed.
const MaxRetryAfter = 2 * time.Minute

// RefuseCluster returns the refusal of a token that is OfCluster, for a pod that the policy does
// not allow the identity.
func (t *Token) RefuseCluster(id *v1.AzureIdentity) *reason.Refusal {
	return &reason.Refusal{
		Reason: reason.ClusterToken,
		Cause:  errors.New(t.OfCluster()),
		Message: fmt.Sprintf("AzureIdentity %s/%s cannot be used: it names an identity of the cluster itself, "+
			"which pods do not get: create a user-assigned identity for the application, "+
			"have this one named for namespace %s in AzureIdentityPolicy %s, "+
			"or run MIC and NMI with --allow-cluster-identities", id.Namespace, id.Name, id.Namespace, v1.PolicyName),
	}
}

// ErrBusy means that too many requests wait for the source, of this caller or in all.
var ErrBusy = errors.New("too many requests are waiting for the source of tokens")

// key identifies a token: it has everything that makes one differ from another. It includes the UID
// and the spec, so that a re-created or edited identity does not use an old token.
type key struct {
	namespace                 string // of the object, whose UID implies it
	uid, clientID, resourceID string
	kind                      v1.IdentityType
	// Of types 1 to 3 only: the tenants, the endpoint and the proof.
	tenant, auxiliary, endpoint string
	secret                      types.NamespacedName
	broker, audience            string

	resource string
}

func keyOf(r Request) key {
	id := r.Identity
	k := key{
		namespace: id.Namespace, uid: string(id.UID), kind: id.Spec.Type, resource: r.Resource,
		clientID: ascii.ToLower(id.Spec.ClientID), resourceID: ascii.ToLower(id.Spec.ResourceID),
	}
	if k.uid == "" {
		k.uid = id.Namespace + "/" + id.Name
	}
	if k.kind == v1.UserAssignedMSI {
		return k
	}
	k.tenant, k.endpoint = id.Spec.TenantID, id.Spec.ADEndpoint
	k.auxiliary = strings.Join(id.Spec.AuxiliaryTenantIDs, ",")
	k.secret = types.NamespacedName{Namespace: id.Spec.ClientPassword.Namespace, Name: id.Spec.ClientPassword.Name}
	if from := id.Spec.SharedFrom; k.kind == v1.Federated && from.Name != "" {
		k.broker = from.Namespace + "." + from.Name
	}
	k.audience = id.Spec.FederatedAudience
	return k
}

// identity returns the key without the resource.
func (k key) identity() key { k.resource = ""; return k }

// Same reports whether two objects are the same identity, proven in the same way, so that a token
// minted for one is valid for the other.
func Same(x, y *v1.AzureIdentity) bool {
	return x == y || x.Namespace == y.Namespace && x.Name == y.Name &&
		keyOf(Request{Identity: x}) == keyOf(Request{Identity: y})
}
