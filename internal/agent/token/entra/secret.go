// Type 1: a service principal with a client secret.

package entra

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token/keyfile"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/reason"
	"github.com/podid-io/podid/internal/secretvalue"
)

// Secrets reads Secrets. Its errors are the API server's.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

// NewClientSecret returns the source of service principals with a client secret.
func NewClientSecret(c Config, secrets Secrets) *Source {
	return newSource(c, clientSecrets{secrets})
}

type clientSecrets struct{ Secrets }

// secretKey is the key of a Secret that holds the client secret. It may be missing if the Secret
// has only one key.
const secretKey = "clientSecret"

func (s clientSecrets) proof(ctx context.Context, id *v1.AzureIdentity) (proof, error) {
	data, err := readSecret(ctx, s, id)
	if err != nil {
		return nil, err
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
		return nil, unusable(id, fmt.Errorf("its Secret %s, key %s: %w, which is not sent: for a certificate "+
			"set type: 2 and put the file under the key %s, else put the client secret's value there",
			secretName(id), source.Clip(key, 100), err, keyfile.CertificateKey))
	case err != nil:
		return nil, unusable(id, fmt.Errorf("its Secret %s, key %s: %w: put the client secret's value there",
			secretName(id), source.Clip(key, 100), err))
	case secret == "":
		return nil, unusable(id, fmt.Errorf("its Secret %s has no key %s (or no value there): "+
			"kubectl -n %s patch secret %s -p '{\"stringData\":{\"%s\":\"VALUE\"}}'",
			secretName(id), secretKey, secretNamespace(id), id.Spec.ClientPassword.Name, secretKey))
	}
	return clientSecret(secret), nil
}

// tenants returns the auxiliary tenants as well: v1.8.17 answers with a list of tokens for this
// type alone.
func (clientSecrets) tenants(id *v1.AzureIdentity) []string {
	return append([]string{id.Spec.TenantID}, id.Spec.AuxiliaryTenantIDs...)
}

type clientSecret string

// Format writes a mask, whatever the verb.
func (clientSecret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[secret]")) }

func (s clientSecret) sign(form url.Values, _ endpoint, _ string, _ time.Time) error {
	form.Set("client_secret", string(s))
	return nil
}

func (s clientSecret) equal(other proof) bool {
	o, ok := other.(clientSecret)
	return ok && subtle.ConstantTimeCompare([]byte(s), []byte(o)) == 1
}

func (s clientSecret) leaked(text string) bool { return strings.Contains(text, string(s)) }

func (clientSecret) describe() string { return "client secret" }

// secretNamespace returns the namespace of an identity's Secret, by default the identity's own.
func secretNamespace(id *v1.AzureIdentity) string {
	if id.Spec.ClientPassword.Namespace != "" {
		return id.Spec.ClientPassword.Namespace
	}
	return id.Namespace
}

func secretName(id *v1.AzureIdentity) string {
	return secretNamespace(id) + "/" + id.Spec.ClientPassword.Name
}

// readSecret reads the identity's Secret.
func readSecret(ctx context.Context, secrets Secrets, id *v1.AzureIdentity) (map[string][]byte, error) {
	data, err := secrets.Secret(ctx, secretNamespace(id), id.Spec.ClientPassword.Name)
	switch {
	case err == nil:
		return data, nil
	case apierrors.IsNotFound(err):
		// Transient: the Secret may be created shortly after the identity.
		return nil, &reason.Refusal{
			Reason: reason.SecretMissing, Cause: err,
			Message: fmt.Sprintf("AzureIdentity %s cannot be used yet: its Secret %s does not exist: "+
				"create it, or correct spec.clientPassword", source.Name(id), secretName(id)),
		}
	case apierrors.IsForbidden(err):
		return nil, &reason.Refusal{
			Reason: reason.SecretForbidden, Cause: err,
			Message: fmt.Sprintf("the node agent may not read Secret %s of AzureIdentity %s: it lacks a Role in "+
				"namespace %s with the right to get secrets; add the namespace to the chart's rbac.secretNamespaces",
				secretName(id), source.Name(id), secretNamespace(id)),
		}
	default:
		return nil, apiServerTrouble(fmt.Sprintf("Secret %s cannot be read", secretName(id)), err)
	}
}

// apiServerTrouble is the failure of a request to the API server.
func apiServerTrouble(what string, err error) error {
	return &reason.Refusal{
		Reason: reason.APIServerTrouble, Cause: err,
		Message: what + " because of trouble with the API server: try again",
	}
}
