// The adal client: go-autorest/adal 0.9, which many Azure programs in Go still use. It probes with
// MSIAvailable before it calls IMDS.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/Azure/go-autorest/autorest/adal"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "adal:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	start := time.Now()
	if !adal.MSIAvailable(ctx, http.DefaultClient) {
		return fmt.Errorf("probe: no managed identity here")
	}
	token, err := adal.NewServicePrincipalTokenFromManagedIdentity(os.Getenv("RESOURCE"), &adal.ManagedIdentityOptions{
		ClientID: os.Getenv("CLIENT_ID"), IdentityResourceID: os.Getenv("RESOURCE_ID"),
	})
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
		"client": "adal", "clientID": claims["appid"], "audience": claims["aud"],
		"milliseconds": time.Since(start).Milliseconds(), "expiresIn": int(time.Until(token.Token().Expires()).Seconds()),
	}
	if os.Getenv("SHOW_TOKEN") != "" {
		answer["token"] = token.OAuthToken()
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
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
