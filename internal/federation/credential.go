// The federated credential on Azure.

package federation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// Credential is a federated identity credential on Azure. Tokens of this issuer, for this subject
// and audience, authenticate the identity like a secret.
type Credential struct {
	Name      string   `json:"name"`
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
	// ManagedIdentity or ClientID (of an application) is the owner of the credential.
	ManagedIdentity *ManagedIdentity `json:"managedIdentity,omitempty"`
	ClientID        string           `json:"clientID,omitempty"`
}

// ManagedIdentity locates a user-assigned managed identity.
type ManagedIdentity struct {
	Name           string `json:"name"`
	ResourceGroup  string `json:"resourceGroup"`
	SubscriptionID string `json:"subscriptionID"`
}

// Cluster holds the properties of the cluster that a credential depends on.
type Cluster struct {
	// Name distinguishes the credentials of several clusters. It may be empty.
	Name string
	// Issuer is the issuer of ServiceAccount tokens, verbatim.
	Issuer string
	// BrokerNamespace is the namespace of all brokers.
	BrokerNamespace string
	// Cloud is the name of the Azure cloud, such as AzurePublicCloud.
	Cloud string
}

// For returns the credential that a federated identity needs on Azure. Its error says what to
// change.
func For(id *v1.AzureIdentity, cluster Cluster) (Credential, error) {
	if id.Spec.Type != v1.Federated {
		return Credential{}, fmt.Errorf("identity %s/%s has type %d and needs no federated credential: set spec.type to 3 (federated) first",
			id.Namespace, id.Name, id.Spec.Type)
	}
	if identity.Shared(id) {
		owner := id.Spec.SharedFrom
		return Credential{}, fmt.Errorf("identity %s/%s uses the federated credential of %s/%s and needs none of its own: podid identity federate %s -n %s",
			id.Namespace, id.Name, owner.Namespace, owner.Name, owner.Name, owner.Namespace)
	}
	if refusal := identity.Check(id); refusal != nil {
		return Credential{}, refusal
	}
	broker, err := identity.Broker(id)
	if err != nil {
		return Credential{}, err
	}
	c := Credential{
		Issuer: cluster.Issuer, Subject: identity.BrokerSubject(cluster.BrokerNamespace, broker),
		Audiences: []string{identity.FederatedAudience(id, cluster.Cloud)},
	}
	c.Name = credentialName(cluster.Name, id, c)
	if id.Spec.ResourceID == "" {
		c.ClientID = id.Spec.ClientID
		return c, nil
	}
	resource, err := identity.ParseResourceID(id.Spec.ResourceID)
	if err != nil {
		return Credential{}, fmt.Errorf("identity %s/%s: spec.resourceID: %w", id.Namespace, id.Name, err)
	}
	c.ManagedIdentity = &ManagedIdentity{Name: resource.Name, ResourceGroup: resource.ResourceGroup, SubscriptionID: resource.SubscriptionID}
	return c, nil
}

// maxName is the maximum length of a federated credential's name. It consists of letters, digits, -
// and _, and starts with a letter or digit:
// https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations
const maxName = 120

// credentialName returns a name that is stable for a cluster and identity, and unique to them.
func credentialName(cluster string, id *v1.AzureIdentity, c Credential) string {
	sum := sha256.Sum256([]byte(c.Issuer + "\n" + c.Subject))
	hash := "-" + hex.EncodeToString(sum[:4])
	words := []string{"podid", cluster, id.Namespace, id.Name}
	if cluster == "" {
		words = []string{"podid", id.Namespace, id.Name}
	}
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.Join(words, "-"))
	return name[:min(len(name), maxName-len(hash))] + hash
}

// Command returns the Azure CLI command that creates or updates the credential. Arguments are
// quoted for a shell where necessary.
func (c Credential) Command() string {
	words := []string{"az", "ad", "app", "federated-credential", "create", "--id", c.ClientID, "--parameters", c.parameters()}
	if m := c.ManagedIdentity; m != nil {
		words = []string{
			"az", "identity", "federated-credential", "create", "--name", c.Name, "--identity-name", m.Name,
			"--resource-group", m.ResourceGroup, "--subscription", m.SubscriptionID,
			"--issuer", c.Issuer, "--subject", c.Subject, "--audiences", c.Audiences[0],
		}
	}
	for i, word := range words {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

// parameters returns the JSON argument of az ad app. The keys of a map are sorted.
func (c Credential) parameters() string {
	text, _ := json.Marshal(map[string]any{ //nolint:errchkjson // strings always marshal
		"name": c.Name, "issuer": c.Issuer, "subject": c.Subject, "audiences": c.Audiences,
		"description": "pods of this cluster, by podid",
	})
	return string(text)
}

// quote quotes an argument for a shell.
func quote(word string) string {
	plain := word != "" && strings.IndexFunc(word, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./:=@,", r)
	}) < 0
	if plain {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
