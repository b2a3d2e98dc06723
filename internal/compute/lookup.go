// Reading an identity itself, regardless of where it is assigned.

package compute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/podid-io/podid/internal/ascii"
)

// identityVersion is the requested version of Microsoft.ManagedIdentity.
const identityVersion = "2023-01-31"

// ClientID returns the current client ID of a user-assigned identity, which changes when the
// identity is deleted and recreated. The role Managed Identity Operator grants the permission.
// resourceID must be well-formed.
func (c *Client) ClientID(ctx context.Context, resourceID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	id, err := c.clientID(ctx, resourceID)
	if err != nil {
		return "", ClientIDError(resourceID, err)
	}
	return id, nil
}

func (c *Client) clientID(ctx context.Context, resourceID string) (string, error) {
	// The limits are those of the identity's subscription.
	parts := strings.SplitN(ascii.ToLower(resourceID), "/", 4) // "", subscriptions, S, rest
	if len(parts) < 4 {
		return "", errors.New("not a resource ID")
	}
	client, err := arm.NewClient("podid", "v1.0.0", c.options.Credential, c.arm(Group{SubscriptionID: parts[2]}))
	if err != nil {
		return "", err
	}
	endpoint := strings.TrimSuffix(c.options.Cloud.Services[cloud.ResourceManager].Endpoint, "/")
	req, err := runtime.NewRequest(ctx, http.MethodGet, endpoint+resourceID)
	if err != nil {
		return "", err
	}
	req.Raw().URL.RawQuery = "api-version=" + identityVersion
	resp, err := client.Pipeline().Do(req)
	if err != nil {
		return "", unreachable(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if !runtime.HasStatusCode(resp, http.StatusOK) {
		return "", runtime.NewResponseError(resp)
	}
	var answer struct {
		Properties struct {
			ClientID string `json:"clientId"`
		} `json:"properties"`
	}
	body, err := runtime.Payload(resp)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("read Azure's answer: %w", err)
	}
	if answer.Properties.ClientID == "" {
		return "", errors.New("Azure tells no client ID") //nolint:staticcheck // a name
	}
	return answer.Properties.ClientID, nil
}

// ClientIDError returns the error of Client.ClientID when the SDK returns err.
func ClientIDError(resourceID string, err error) error {
	return fmt.Errorf("look up identity %s: %w", resourceID, err)
}

// IdentityNotFound reports whether an error of ClientID means that the identity does not exist. It
// returns false for a missing subscription, which may belong to another tenant, and for a response
// without ARM's code, which is not from ARM.
func IdentityNotFound(err error) bool {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok || answer.StatusCode != http.StatusNotFound {
		return false
	}
	switch ascii.ToLower(codeOf(answer)) {
	case "resourcenotfound", "notfound", "resourcegroupnotfound":
		return true
	default:
		return false
	}
}
