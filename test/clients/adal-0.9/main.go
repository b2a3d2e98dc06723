// The adal client: go-autorest/adal 0.9, which many Azure programs in Go still use. It probes with
// MSIAvailable before it calls IMDS.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/Azure/go-autorest/autorest/adal"

	"github.com/podid-io/podid/test/clients/report"
)

func main() { report.Main("adal", request) }

func request(ctx context.Context) (string, time.Time, error) {
	if !adal.MSIAvailable(ctx, http.DefaultClient) {
		return "", time.Time{}, fmt.Errorf("probe: no managed identity here")
	}
	token, err := adal.NewServicePrincipalTokenFromManagedIdentity(os.Getenv("RESOURCE"), &adal.ManagedIdentityOptions{
		ClientID: os.Getenv("CLIENT_ID"), IdentityResourceID: os.Getenv("RESOURCE_ID"),
	})
	if err != nil {
		return "", time.Time{}, err
	}
	if err := token.RefreshWithContext(ctx); err != nil {
		return "", time.Time{}, err
	}
	return token.OAuthToken(), token.Token().Expires(), nil
}
