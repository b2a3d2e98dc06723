// The azidentity client requests a token as an application with the current Azure SDK for Go does,
// and prints its claims. It is built for a pod.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "azidentity:", err)
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
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(token.Token, claims); err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	answer := map[string]any{
		"client": "azidentity", "clientID": claims["appid"], "audience": claims["aud"],
		"milliseconds": time.Since(start).Milliseconds(), "expiresIn": int(time.Until(token.ExpiresOn).Seconds()),
	}
	if os.Getenv("SHOW_TOKEN") != "" {
		answer["token"] = token.Token
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}

// credential returns a managed identity chosen by CLIENT_ID, RESOURCE_ID or OBJECT_ID, or the
// default chain with its probe if DEFAULT_CHAIN is set.
func credential() (azcore.TokenCredential, error) {
	if os.Getenv("DEFAULT_CHAIN") != "" {
		return azidentity.NewDefaultAzureCredential(nil)
	}
	options := &azidentity.ManagedIdentityCredentialOptions{}
	if id := os.Getenv("CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	} else if id := os.Getenv("RESOURCE_ID"); id != "" {
		options.ID = azidentity.ResourceID(id)
	} else if id := os.Getenv("OBJECT_ID"); id != "" {
		options.ID = azidentity.ObjectID(id)
	}
	return azidentity.NewManagedIdentityCredential(options)
}
