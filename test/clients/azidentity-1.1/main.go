// The azidentity 1.1 client (2022): the Azure SDK for Go before its managed
// identity code moved to MSAL. It names the resource ID mi_res_id and gives
// the first request of the default chain one second in all.
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
		fmt.Fprintln(os.Stderr, "azidentity 1.1:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cred, err := credential()
	if err != nil {
		return err
	}
	start := time.Now()
	token, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{os.Getenv("RESOURCE") + "/.default"}})
	if err != nil {
		return err
	}
	claims, err := decode(token.Token)
	if err != nil {
		return err
	}
	answer := map[string]any{
		"client": "azidentity-1.1", "clientID": claims["appid"], "audience": claims["aud"],
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
	options := &azidentity.ManagedIdentityCredentialOptions{}
	if id := os.Getenv("CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	} else if id := os.Getenv("RESOURCE_ID"); id != "" {
		options.ID = azidentity.ResourceID(id)
	}
	return azidentity.NewManagedIdentityCredential(options)
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
