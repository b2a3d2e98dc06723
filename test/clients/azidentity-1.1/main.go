// The azidentity 1.1 client (2022): the Azure SDK for Go before its managed
// identity code moved to MSAL. It names the resource ID mi_res_id and gives
// the first request of the default chain one second in all.
package main

import (
	"context"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/podid-io/podid/test/clients/report"
)

func main() { report.Main("azidentity-1.1", request) }

func request(ctx context.Context) (string, time.Time, error) {
	cred, err := credential()
	if err != nil {
		return "", time.Time{}, err
	}
	token, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{os.Getenv("RESOURCE") + "/.default"}})
	if err != nil {
		return "", time.Time{}, err
	}
	return token.Token, token.ExpiresOn, nil
}

func credential() (azcore.TokenCredential, error) {
	if os.Getenv("DEFAULT_CHAIN") != "" {
		return azidentity.NewDefaultAzureCredential(nil)
	}
	options := &azidentity.ManagedIdentityCredentialOptions{}
	if id := os.Getenv("CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	} else if id := os.Getenv("RESOURCE_ID"); id != "" {
		options.ID = azidentity.ResourceID(id)
	}
	return azidentity.NewManagedIdentityCredential(options)
}
