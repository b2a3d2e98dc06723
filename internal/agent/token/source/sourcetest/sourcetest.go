// Package sourcetest has what the tests of the token sources share.
package sourcetest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/reason"
)

// Limiter never limits. Acquire returns Err.
type Limiter struct{ Err error }

// Acquire implements source.Limiter.
func (l Limiter) Acquire(context.Context, string) (func(), error) { return func() {}, l.Err }

// StayAway implements source.Limiter.
func (Limiter) StayAway(time.Duration) {}

// Meter counts calls.
type Meter struct {
	mu                sync.Mutex
	Errors, Successes int
}

// SourceOperation implements source.Meter.
func (m *Meter) SourceOperation(_ string, _ time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.Errors++
	} else {
		m.Successes++
	}
}

// Request asks for a token of a managed identity.
func Request(name, resource string) token.Request {
	return token.Request{Caller: "ns/pod", Resource: resource, Identity: &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       v1.AzureIdentitySpec{ClientID: "Client-" + name, ResourceID: "/r/" + name},
	}}
}

// JWT returns an unsigned token.
func JWT(claims map[string]any) string {
	payload, _ := json.Marshal(claims) // of strings
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2lnbmF0dXJl"
}

// Reply returns a token reply. clientID may be empty.
func Reply(access, clientID string) string {
	fields := map[string]string{"access_token": access, "expires_in": "3600"}
	if clientID != "" {
		fields["client_id"] = clientID
	}
	body, _ := json.Marshal(fields) // of strings
	return string(body)
}

// Failure returns the failure in an error.
func Failure(t testing.TB, err error) *reason.Refusal {
	t.Helper()
	f := reason.AsRefusal(err)
	if f == nil {
		t.Fatalf("got %v, want a failure", err)
	}
	return f
}
