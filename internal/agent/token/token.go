// Package token gets tokens and keeps them: the sources that mint them (the
// metadata service, and Entra ID for identities with a secret, a certificate or a
// federated credential) and the cache in front. It does not decide who may have
// one; its caller must have asked, for every request, before it hands one out.
package token

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// Source mints tokens. It bounds its own work by ctx and returns a *Failure
// when it has no token to give.
type Source interface {
	Token(ctx context.Context, r Request) (*Token, error)
}

// Request is one wish for a token.
type Request struct {
	Identity *v1.AzureIdentity
	// Resource is what the token is for, verbatim.
	Resource string
	// Caller names the pod on whose account the source is asked, as namespace/name. Namespaces take
	// turns, and so do the pods of each.
	Caller string
	// Revoked is the SHA-256, in hexadecimal, of a token that the client says is
	// revoked: if it is the one held, a newer one is wanted. "" otherwise.
	Revoked string
	// Wanted, of a request in the Background, gets the name of the first caller
	// who waits for it after all; from then on it is that caller's. Nil otherwise.
	Wanted <-chan string
}

// Token is a token with all its source said. It prints as a mask.
type Token struct {
	// Fields is the source's reply, whole. The cache drops it once Body is made.
	Fields map[string]json.RawMessage
	// NotBefore and ExpiresOn are the token's own times, ExtendedOn is until
	// when it may be used in an outage (zero: no longer).
	NotBefore, ExpiresOn, ExtendedOn time.Time
	// Obtained is when the source gave it, which may be late in its life.
	Obtained time.Time
	// ObjectID is the object id of the identity, as the token says it; "" when
	// it does not.
	ObjectID string
	// Auxiliary are the tokens for further tenants of a multi-tenant application,
	// in the order of its spec; the token's times are the shortest of them all.
	// Whoever renders the reply drops them.
	Auxiliary []*Token
	// Body is the reply, ready to send.
	Body Body

	cluster *clusterCheck // what OfCluster asks, nil where there is nothing to ask

	since time.Time         // when the source first gave it, zero: Obtained
	sum   [sha256.Size]byte // of the access token
	units int               // of its size
}

// OfCluster returns what shows that the token is one of the cluster's own identities, as far as
// they are known now, and "" for nothing. The caller hands such a token out only where the policy
// names the identity.
func (t *Token) OfCluster() string {
	if t.cluster == nil {
		return ""
	}
	return t.cluster.evidence()
}

// size is how much the source said, in bytes.
func (t *Token) size() int {
	n := 0
	for name, value := range t.Fields {
		n += len(name) + len(value)
	}
	for _, other := range t.Auxiliary {
		n += other.size()
	}
	return n
}

// shorten lets the token end no later than another that it goes out with.
func (t *Token) shorten(other *Token) {
	if other.ExpiresOn.Before(t.ExpiresOn) {
		t.ExpiresOn = other.ExpiresOn
	}
	if other.NotBefore.After(t.NotBefore) {
		t.NotBefore = other.NotBefore
	}
}

// Body is a reply that is serialised but for the seconds left.
type Body interface {
	Append(dst []byte, now time.Time) []byte
}

// Format writes a mask, whatever the verb: tokens are not for logs.
func (t *Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[token]")) }

// valid tells that the token can still be used.
func (t *Token) valid(now time.Time) bool { return t != nil && now.Before(t.ExpiresOn) }

// hash notes the access token's SHA-256, before Fields goes.
func (t *Token) hash() {
	var access string
	if json.Unmarshal(t.Fields["access_token"], &access) == nil && access != "" {
		t.sum = sha256.Sum256([]byte(access))
	}
}

// is tells whether the token is the one with that SHA-256, in hexadecimal.
func (t *Token) is(sum string) bool {
	return t.sum != [sha256.Size]byte{} && ascii.EqualFold(sum, hex.EncodeToString(t.sum[:]))
}

// life is how long the token lasts in all, as far as is known: the source may
// have a cache of its own and hand it out late, and more than once.
func (t *Token) life() time.Duration {
	began := t.Obtained
	for _, earlier := range []time.Time{t.NotBefore, t.since} {
		if !earlier.IsZero() && earlier.Before(began) {
			began = earlier
		}
	}
	return t.ExpiresOn.Sub(began)
}

// enough is the least a token should have left when it is handed out. Clients
// take one with less than five minutes for expired and come back at once, so it
// is five minutes, or a quarter of its life when that is little.
func (t *Token) enough() time.Duration { return min(plenty, t.life()/4) }

// plenty is enough for any client.
const plenty = 5 * time.Minute

// fresh tells that the token can be handed out without a second thought.
func (t *Token) fresh(now time.Time) bool {
	if t == nil {
		return false
	}
	left := t.ExpiresOn.Sub(now)
	return left > plenty || left > t.enough()
}

// refreshIn is how long to wait before asking for the next one: 80 % of what is
// left, and in time before it stops being fresh. spread, from 0 to 1, makes it
// up to a tenth sooner, so that nodes and tokens do not move in step. When it is
// late for that, since the source gives no newer one, it is a third of what is
// left and at most a minute: the source may have a newer one any time.
func (t *Token) refreshIn(now time.Time, spread float64) time.Duration {
	left := t.ExpiresOn.Sub(now)
	in := min(left/10*8, left-t.enough()*5/4) // in this order: 40 years * 8 is more than a Duration holds
	in -= time.Duration(float64(in) * spread / 10)
	return max(in, min(left/3, time.Minute), time.Second)
}

// Failure is why there is no token, in the words of the answer to the pod.
type Failure struct {
	// Status is the HTTP status to answer with.
	Status int
	// Code is one word, Message a sentence without secrets that says what to do.
	Code, Message string
	// Reason is the reason of the refusal in metrics, Events and audit lines. Empty stands for
	// trouble with the source in general.
	Reason string
	// RetryAfter is when to come back, when the source said so.
	RetryAfter time.Duration
	// Cause is what went wrong below, for the log; may be nil.
	Cause error

	queued bool // it came no further than a queue, and says nothing of the source
}

// Error is the message, and the cause.
func (f *Failure) Error() string {
	if f.Cause != nil {
		return f.Message + ": " + f.Cause.Error()
	}
	return f.Message
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// ErrBusy says that too many requests wait for the source already, of this
// caller or in all.
var ErrBusy = errors.New("too many requests are waiting for the source of tokens")

// Kinds sends a request to the source for the identity's type.
type Kinds map[v1.IdentityType]Source

// Token asks the source of the identity's type.
func (k Kinds) Token(ctx context.Context, r Request) (*Token, error) {
	if source, ok := k[r.Identity.Spec.Type]; ok {
		return source.Token(ctx, r)
	}
	return nil, &Failure{
		Status: http.StatusForbidden, Code: "identity_type_not_supported",
		Message: fmt.Sprintf("there is no source of tokens for identities of type %d", r.Identity.Spec.Type),
	}
}

// key is what tokens are kept under: everything that makes one differ from
// another. The object's UID is part of it, so that an identity deleted and made
// again starts anew; the rest of its spec is, so that an edited one does.
type key struct {
	namespace                 string // of the object; its UID implies it
	uid, clientID, resourceID string
	kind                      v1.IdentityType
	// Of types 1 to 3 only: which tenants, where, and proven by what.
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

// identity is the key without the resource.
func (k key) identity() key { k.resource = ""; return k }

// Same tells whether two objects stand for the same identity, proven in the same
// way: whether a token minted for one is one for the other.
func Same(x, y *v1.AzureIdentity) bool {
	return x == y || x.Namespace == y.Namespace && x.Name == y.Name &&
		keyOf(Request{Identity: x}) == keyOf(Request{Identity: y})
}
