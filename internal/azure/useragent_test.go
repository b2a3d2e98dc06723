package azure

import (
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// agents is a transport that records the User-Agent of each request.
type agents struct {
	entra
	seen []string
}

func (a *agents) Do(req *http.Request) (*http.Response, error) {
	a.seen = append(a.seen, req.Header.Get("User-Agent"))
	return a.entra.Do(req)
}

func TestUserAgent(t *testing.T) {
	// The SDK caches tokens by identity.
	for id, test := range map[string]struct{ text, want string }{
		"66666666-6666-6666-6666-666666666661": {"my-cluster/1 (test)", " my-cluster/1 (test)"},
		"66666666-6666-6666-6666-666666666662": {"", ")"},
	} {
		config := Config{ManagedIdentity: true, UserAssignedIdentityID: id}
		transport := &agents{}
		credential, err := NewCredential(config, CredentialOptions{Transport: transport, UserAgent: test.text})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}}); err != nil {
			t.Fatal(err)
		}
		for _, agent := range transport.seen {
			if !strings.HasPrefix(agent, "azsdk-go-azidentity/") || !strings.HasSuffix(agent, test.want) {
				t.Errorf("User-Agent %q, want the SDK's and %q", agent, test.want)
			}
		}
		if len(transport.seen) == 0 {
			t.Error("no request")
		}
	}
}
