// The text of a user in the User-Agent header.

package azure

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// UserAgent is a policy that appends a text to the User-Agent of requests to Azure. The SDK's own
// application ID has at most 24 characters and no spaces.
type UserAgent string

// Do implements policy.Policy.
func (u UserAgent) Do(req *policy.Request) (*http.Response, error) {
	if u != "" {
		header := req.Raw().Header
		header.Set("User-Agent", strings.TrimSpace(header.Get("User-Agent")+" "+string(u)))
	}
	return req.Next()
}
