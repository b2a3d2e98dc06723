// Type 3: a federated identity, proven by a token of the cluster's own issuer.

package token

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// Brokers gives tokens of the ServiceAccounts that stand for federated
// identities. Its errors are the API server's.
type Brokers interface {
	BrokerToken(ctx context.Context, serviceAccount, audience string) (string, error)
}

// FederationConfig is what the source of federated identities needs besides.
type FederationConfig struct {
	Brokers Brokers
	// Namespace is that of all brokers, for messages.
	Namespace string
	// Cloud is the name of the node's cloud: the audience depends on it.
	Cloud string
}

// NewFederated returns the source of federated identities. For each token that is
// minted, the API server is asked for one of the identity's broker, and Entra ID
// exchanges that.
func NewFederated(c EntraConfig, f FederationConfig) *Entra {
	return &Entra{prover: federation{f}, exchange: newExchange(c)}
}

type federation struct{ FederationConfig }

func (f federation) proof(ctx context.Context, id *v1.AzureIdentity) (proof, *problem) {
	broker, err := identity.Broker(id)
	if err != nil {
		return nil, unusable(id, err)
	}
	audience := identity.FederatedAudience(id, f.Cloud)
	jwt, err := f.Brokers.BrokerToken(ctx, broker, audience)
	switch {
	case err == nil:
		return assertion(jwt), nil
	case apierrors.IsNotFound(err):
		// Not final: MIC makes it within a moment of the identity.
		return nil, &problem{Failure: Failure{
			Status: http.StatusNotFound, Code: "broker_missing", Cause: err,
			Message: fmt.Sprintf("AzureIdentity %s cannot be used yet: its broker, ServiceAccount %s/%s, does not exist: MIC makes it, if it runs; else podid identity federate %s -n %s does",
				name(id), f.Namespace, broker, id.Name, id.Namespace),
		}}
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		// Not final either: with limits by node, MIC gives the right when the
		// node's first pod comes.
		return nil, &problem{Failure: Failure{
			Status: http.StatusNotFound, Code: "broker_forbidden", Cause: err,
			Message: fmt.Sprintf("the node agent gets no token of ServiceAccount %s/%s, the broker of AzureIdentity %s, with the audience %s: "+
				"it lacks a Role in namespace %s with the right to create serviceaccounts/token (the chart's federation values), or a policy forbids it (an audience of your own belongs into federation.audiences); its log says which",
				f.Namespace, broker, name(id), clip(audience, 100), f.Namespace),
		}}
	default:
		return nil, &problem{Failure: apiServerTrouble("the identity's broker has no token", err)}
	}
}

func (federation) tenants(id *v1.AzureIdentity) []string { return []string{id.Spec.TenantID} }

// assertion is the broker's token. It prints as a mask.
type assertion string

// Format writes a mask, whatever the verb.
func (assertion) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[assertion]")) }

func (a assertion) sign(form url.Values, _ endpoint, _ string, _ time.Time) error {
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", string(a))
	return nil
}

// same is always so: another token of the same broker says the same.
func (assertion) same(proof) bool { return true }

func (a assertion) leaked(text string) bool {
	_, signature, ok := cutLast(string(a), ".")
	return ok && len(signature) > 16 && strings.Contains(text, signature)
}

// names says what a federated credential must say to take it.
func (a assertion) names() string {
	c := readClaims(string(a))
	audience := strings.Join(c.Audience, " ")
	return fmt.Sprintf("issuer %s, subject %s, audience %s", clip(c.Issuer, 300), clip(c.Subject, 300), clip(audience, 300))
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
