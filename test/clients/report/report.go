// Package report prints which token a client got. It is a module without dependencies, for the
// clients that are modules of their own because they need an old SDK.
package report

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// Main requests a token, prints a line of JSON about it (see package clients), and exits with 1 if
// there is none.
func Main(client string, request func(context.Context) (token string, expires time.Time, err error)) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	token, expires, err := request(ctx)
	took := time.Since(start)
	if err == nil {
		err = write(client, token, took, expires)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, client+":", err)
		os.Exit(1)
	}
}

func write(client, token string, took time.Duration, expires time.Time) error {
	claims, err := decode(token)
	if err != nil {
		return err
	}
	answer := map[string]any{
		"client": client, "clientID": claims["appid"], "audience": claims["aud"],
		"milliseconds": took.Milliseconds(), "expiresIn": int(time.Until(expires).Seconds()),
	}
	if os.Getenv("SHOW_TOKEN") != "" {
		answer["token"] = token
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
