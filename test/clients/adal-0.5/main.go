// The adal 0.5 client (2019): go-autorest as in programs of the time of AAD Pod Identity. It does
// not probe, and names an identity by client ID only.
package main

import (
	"context"
	"os"
	"time"

	"github.com/Azure/go-autorest/autorest/adal"

	"github.com/podid-io/podid/test/clients/report"
)

func main() { report.Main("adal-0.5", request) }

func request(ctx context.Context) (string, time.Time, error) {
	token, err := source()
	if err != nil {
		return "", time.Time{}, err
	}
	if err := token.RefreshWithContext(ctx); err != nil {
		return "", time.Time{}, err
	}
	return token.OAuthToken(), token.Token().Expires(), nil
}

func source() (*adal.ServicePrincipalToken, error) {
	endpoint, err := adal.GetMSIVMEndpoint()
	if err != nil {
		return nil, err
	}
	if id := os.Getenv("CLIENT_ID"); id != "" {
		return adal.NewServicePrincipalTokenFromMSIWithUserAssignedID(endpoint, os.Getenv("RESOURCE"), id)
	}
	return adal.NewServicePrincipalTokenFromMSI(endpoint, os.Getenv("RESOURCE"))
}
