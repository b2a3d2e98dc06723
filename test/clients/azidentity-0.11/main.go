// The azidentity 0.11 client (2021): the Azure SDK for Go of that time. Each managed identity
// credential probes when it is made, with a retry policy and half a second in all.
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

func main() { report.Main("azidentity-0.11", request) }

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
	if id := os.Getenv("RESOURCE_ID"); id != "" {
		return azidentity.NewManagedIdentityCredential(id, &azidentity.ManagedIdentityCredentialOptions{ID: azidentity.ResourceID})
	}
	return azidentity.NewManagedIdentityCredential(os.Getenv("CLIENT_ID"), nil)
}
