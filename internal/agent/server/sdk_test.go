package server

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	v1 "github.com/podid-io/podid/api/v1"
)

// diverter sends an SDK's requests to the metadata service to the agent, and refuses all others.
type diverter struct {
	t       *testing.T
	address string
	client  *http.Client
}

func (d diverter) Do(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "169.254.169.254" {
		d.t.Errorf("the SDK asked %s", r.URL)
	}
	r = r.Clone(r.Context())
	r.URL.Host = d.address
	return d.client.Do(r)
}

// TestAzureSDK gets tokens with the real SDK for Go, as a program in a pod does.
func TestAzureSDK(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	w.bind("web", "two")
	w.state("web", "two", v1.StateAssigned, "", "")
	w.imds.has("two")
	options := azcore.ClientOptions{
		Transport: diverter{t, w.listen("10.9.0.2"), client(t)},
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}
	tests := []struct {
		name    string
		id      azidentity.ManagedIDKind
		refused string // in the error
	}{
		{name: "none named"},
		{name: "client id", id: azidentity.ClientID(clientID("two"))},
		{name: "resource id", id: azidentity.ResourceID(resourceID("two"))},
		{name: "object id", id: azidentity.ObjectID(objectID("two"))},
		{name: "not granted", id: azidentity.ClientID("somebody-else"), refused: "Identity not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: options, ID: tt.id})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("got %v, want an error with %q", err, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.ExpiresOn); !strings.HasPrefix(got.Token, "e30.") || left < 23*time.Hour {
				t.Errorf("expires in %v", left)
			}
		})
	}
	t.Run("default credential", func(t *testing.T) {
		for _, name := range []string{"AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"} {
			t.Setenv(name, "") // so that it is restored
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
		c, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: options})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}}); err != nil {
			t.Error(err)
		}
	})
	// Fewer if the test runs twice: the SDK caches tokens for the whole process.
	if n := len(w.imds.seen()); n > 2 {
		t.Errorf("%d calls to the metadata service for two identities and one resource", n)
	}
}
