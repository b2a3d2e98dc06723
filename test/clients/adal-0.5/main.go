// The adal 0.5 client (2019): go-autorest as in programs of the time of AAD Pod Identity. It does
// not probe, and names an identity by client ID only.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/Azure/go-autorest/autorest/adal"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "adal 0.5:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	start := time.Now()
	token, err := source()
	if err != nil {
		return err
	}
	if err := token.RefreshWithContext(ctx); err != nil {
		return err
	}
	claims, err := decode(token.OAuthToken())
	if err != nil {
		return err
	}
	answer := map[string]any{
		"client": "adal-0.5", "clientID": claims["appid"], "audience": claims["aud"],
		"milliseconds": time.Since(start).Milliseconds(), "expiresIn": int(time.Until(token.Token().Expires()).Seconds()),
	}
	if os.Getenv("SHOW_TOKEN") != "" {
		answer["token"] = token.OAuthToken()
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
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

// decode reads the claims of a JWT without verifying it.
func decode(token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("read the token: %d parts instead of 3", len(parts))
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	claims := map[string]any{}
	return claims, json.Unmarshal(body, &claims)
}
