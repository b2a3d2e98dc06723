// Type 3: a federated identity, proven by a token of the cluster's own issuer.

package entra

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// Brokers issues tokens of the ServiceAccounts that stand for federated identities. Its errors are
// the API server's.
type Brokers interface {
	BrokerToken(ctx context.Context, serviceAccount, audience string) (string, error)
}

// Federation is the configuration of federated identities.
type Federation struct {
	Brokers Brokers
	// Namespace is that of all brokers, for messages.
	Namespace string
	// Cloud is the name of the node's cloud. The audience depends on it.
	Cloud string
}

// NewFederated returns the source of federated identities. It exchanges a token of the identity's
// broker for one of Entra ID.
func NewFederated(c Config, f Federation) *Source {
	return newSource(c, brokerTokens{f})
}

type brokerTokens struct{ Federation }

func (b brokerTokens) proof(ctx context.Context, id *v1.AzureIdentity) (proof, error) {
	broker, err := identity.Broker(id)
	if err != nil {
		return nil, unusable(id, err)
	}
	audience := identity.FederatedAudience(id, b.Cloud)
	jwt, err := b.Brokers.BrokerToken(ctx, broker, audience)
	switch {
	case err == nil:
		return assertion(jwt), nil
	case apierrors.IsNotFound(err):
		// Transient: MIC creates the broker shortly after the identity.
		return nil, &reason.Refusal{
			Reason: reason.BrokerMissing, Cause: err,
			Message: fmt.Sprintf("AzureIdentity %s cannot be used yet: its broker, ServiceAccount %s/%s, does not "+
				"exist: MIC makes it, if it runs; else podid identity federate %s -n %s does",
				source.Name(id), b.Namespace, broker, id.Name, id.Namespace),
		}
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		// Transient: with limits by node, MIC grants the right for the node's first pod.
		return nil, &reason.Refusal{
			Reason: reason.BrokerForbidden, Cause: err,
			Message: fmt.Sprintf("the node agent gets no token of ServiceAccount %s/%s, the broker of AzureIdentity "+
				"%s, with the audience %s: it lacks a Role in namespace %s with the right to create serviceaccounts/token "+
				"(the chart's federation values), or a policy forbids it (an audience of your own is not in "+
				"federation.audiences); the agent's log says which",
				b.Namespace, broker, source.Name(id), source.Clip(audience, 100), b.Namespace),
		}
	default:
		return nil, apiServerTrouble("the identity's broker has no token", err)
	}
}

func (brokerTokens) tenants(id *v1.AzureIdentity) []string { return []string{id.Spec.TenantID} }

// assertion is the broker's token.
type assertion string

// Format writes a mask, whatever the verb.
func (assertion) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[assertion]")) }

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func (a assertion) sign(form url.Values, _ endpoint, _ string, _ time.Time) error {
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", string(a))
	return nil
}

// equal is always true: another token of the same broker has the same issuer, subject and audience.
func (assertion) equal(proof) bool { return true }

// leaked looks for the signature.
func (a assertion) leaked(text string) bool {
	i := strings.LastIndexByte(string(a), '.')
	const minSignature = 16
	return i >= 0 && len(a)-i-1 > minSignature && strings.Contains(text, string(a[i+1:]))
}

// describe names what a federated credential must say to accept the assertion.
func (a assertion) describe() string {
	c := source.ReadClaims(string(a))
	audience := strings.Join(c.Audience, " ")
	return fmt.Sprintf("issuer %s, subject %s, audience %s",
		source.Clip(c.Issuer, 300), source.Clip(c.Subject, 300), source.Clip(audience, 300))
}
