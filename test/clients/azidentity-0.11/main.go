// The azidentity 0.11 client (2021): the Azure SDK for Go of that time. Each managed identity
// credential probes when it is made, with a retry policy and half a second in all.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "azidentity 0.11:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	start := time.Now()
	cred, err := credential()
	if err != nil {
		return err
	}
	token, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{os.Getenv("RESOURCE") + "/.default"}})
	if err != nil {
		return err
	}
	claims, err := decode(token.Token)
	if err != nil {
		return err
	}
	answer := map[string]any{
		"client": "azidentity-0.11", "clientID": claims["appid"], "audience": claims["aud"],
		"milliseconds": time.Since(start).Milliseconds(), "expiresIn": int(time.Until(token.ExpiresOn).Seconds()),
	}
	if os.Getenv("SHOW_TOKEN") != "" {
		answer["token"] = token.Token
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
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
