// Type 1: a service principal with a client secret.

package token

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/secretvalue"
)

// Secrets reads Secrets. Its errors are the API server's.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

// NewClientSecret returns the source of service principals with a secret. The
// secret is read from the API server for each token that is minted, and not kept.
func NewClientSecret(c EntraConfig, secrets Secrets) *Entra {
	return &Entra{prover: clientSecrets{secrets}, exchange: newExchange(c)}
}

type clientSecrets struct{ Secrets }

// secretKey is where a client secret is looked for.
const secretKey = "clientSecret"

func (s clientSecrets) proof(ctx context.Context, id *v1.AzureIdentity) (proof, *problem) {
	data, p := readSecret(ctx, s, id)
	if p != nil {
		return nil, p
	}
	key, value := secretKey, data[secretKey]
	if _, ok := data[secretKey]; !ok && len(data) == 1 {
		for name, only := range data {
			key, value = name, only
		}
	}
	secret, err := secretvalue.ClientSecret(value)
	switch {
	case errors.Is(err, secretvalue.ErrKeyFile):
		return nil, unusable(id, fmt.Errorf("its Secret %s, key %s: %w, which is not sent: for a certificate set type: 2 and put the file under the key %s, "+
			"else put the client secret's value there", secretName(id), clip(key, 100), err, certificateKey))
	case err != nil:
		return nil, unusable(id, fmt.Errorf("its Secret %s, key %s: %w: put the client secret's value there", secretName(id), clip(key, 100), err))
	case secret == "":
		return nil, unusable(id, fmt.Errorf("its Secret %s has no key %s (or no value there): kubectl -n %s patch secret %s -p '{\"stringData\":{\"%s\":\"VALUE\"}}'",
			secretName(id), secretKey, secretNamespace(id), id.Spec.ClientPassword.Name, secretKey))
	}
	return clientSecret(secret), nil
}

// tenants are the identity's, and the auxiliary ones of a multi-tenant
// application, which v1.8.17 answers with a list of tokens for this type alone.
func (clientSecrets) tenants(id *v1.AzureIdentity) []string {
	return append([]string{id.Spec.TenantID}, id.Spec.AuxiliaryTenantIDs...)
}

// clientSecret prints as a mask.
type clientSecret string

// Format writes a mask, whatever the verb.
func (clientSecret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[secret]")) }

func (s clientSecret) sign(form url.Values, _ endpoint, _ string, _ time.Time) error {
	form.Set("client_secret", string(s))
	return nil
}

func (s clientSecret) same(other proof) bool {
	o, ok := other.(clientSecret)
	return ok && subtle.ConstantTimeCompare([]byte(s), []byte(o)) == 1
}

func (s clientSecret) leaked(text string) bool { return strings.Contains(text, string(s)) }

func (clientSecret) names() string { return "client secret" }

// secretNamespace is the namespace of an identity's Secret: its own, unless it
// says another.
func secretNamespace(id *v1.AzureIdentity) string {
	if id.Spec.ClientPassword.Namespace != "" {
		return id.Spec.ClientPassword.Namespace
	}
	return id.Namespace
}

func secretName(id *v1.AzureIdentity) string {
	return secretNamespace(id) + "/" + id.Spec.ClientPassword.Name
}

// readSecret reads the identity's Secret, and says in words why it cannot.
func readSecret(ctx context.Context, secrets Secrets, id *v1.AzureIdentity) (map[string][]byte, *problem) {
	data, err := secrets.Secret(ctx, secretNamespace(id), id.Spec.ClientPassword.Name)
	switch {
	case err == nil:
		return data, nil
	case apierrors.IsNotFound(err):
		// Not final: it may be created a moment after the identity, or fetched by
		// somebody from elsewhere.
		return nil, &problem{Failure: Failure{
			Status: http.StatusNotFound, Code: "secret_missing", Cause: err,
			Message: fmt.Sprintf("AzureIdentity %s cannot be used yet: its Secret %s does not exist: create it, or correct spec.clientPassword", name(id), secretName(id)),
		}}
	case apierrors.IsForbidden(err):
		return nil, &problem{Failure: Failure{
			Status: http.StatusForbidden, Code: "secret_forbidden", Cause: err,
			Message: fmt.Sprintf("the node agent may not read Secret %s of AzureIdentity %s: it lacks a Role in namespace %s with the right to get secrets; "+
				"add the namespace to the chart's rbac.secretNamespaces", secretName(id), name(id), secretNamespace(id)),
		}}
	default:
		return nil, &problem{Failure: apiServerTrouble(fmt.Sprintf("Secret %s cannot be read", secretName(id)), err)}
	}
}

// apiServerTrouble is for an API server that does not do what it should.
func apiServerTrouble(what string, err error) Failure {
	return Failure{
		Status: http.StatusInternalServerError, Code: "api_server_trouble", Cause: err,
		Message: what + " because of trouble with the API server: try again",
	}
}

// unusable is for an identity that somebody has to put right.
func unusable(id *v1.AzureIdentity, err error) *problem {
	return &problem{Failure: Failure{
		Status: http.StatusForbidden, Code: "identity_broken",
		Message: fmt.Sprintf("AzureIdentity %s cannot be used: %v", name(id), err),
	}}
}
