// Command demo is the application of the demonstration: a pod that was written for Azure and knows
// nothing of podid. It gets a token with the Azure SDK's managed identity credential, calls Azure
// Resource Manager with it, and prints what happened, one JSON object per line, never the token.
//
//	AZURE_CLIENT_ID          the identity; the pod's default one if empty
//	DEMO_ARM_ENDPOINT        the URL of Azure Resource Manager in a custom cloud
//	DEMO_RESOURCE            the ARM ID of the scale set to read
//	DEMO_TIMEOUT             how long to try; 60s if empty
//	SSL_CERT_FILE            trusted certificates, as everywhere in Go
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/podid-io/podid/internal/build"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		_, _ = fmt.Fprintln(os.Stdout, "demo "+build.Describe().String())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Getenv, os.Stdout)
	stop()
	os.Exit(code)
}

// event is one line of output.
type event struct {
	Event string    `json:"event"` // started, token, refused, arm
	Time  time.Time `json:"time"`
	// TookMS is the duration of the step in milliseconds.
	TookMS int64          `json:"tookMS,omitempty"`
	Claims map[string]any `json:"claims,omitempty"`
	// Text is ARM's answer in short, or why there was no token.
	Text string `json:"text,omitempty"`
}

// run returns 0 if there was a token and ARM accepted it, 3 if the token was refused, and 1
// otherwise.
func run(ctx context.Context, getenv func(string) string, out io.Writer) int {
	report := func(e event) {
		e.Time = time.Now().UTC()
		b, err := json.Marshal(e)
		if err != nil {
			b = []byte(`{"event":"broken"}`)
		}
		_, _ = fmt.Fprintln(out, string(b))
	}
	timeout := time.Minute
	if text := getenv("DEMO_TIMEOUT"); text != "" {
		var err error
		if timeout, err = time.ParseDuration(text); err != nil {
			report(event{Event: "broken", Text: "DEMO_TIMEOUT: " + err.Error()})
			return 1
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	report(event{Event: "started"})
	credential, err := newCredential(getenv("AZURE_CLIENT_ID"))
	if err != nil {
		report(event{Event: "broken", Text: err.Error()})
		return 1
	}
	endpoint := getenv("DEMO_ARM_ENDPOINT")
	began := time.Now()
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{endpoint + "/.default"}})
	if err != nil {
		report(event{Event: "refused", TookMS: time.Since(began).Milliseconds(), Text: reason(err)})
		return 3
	}
	report(event{Event: "token", TookMS: time.Since(began).Milliseconds(), Claims: claims(token.Token)})
	began = time.Now()
	text, err := readScaleSet(ctx, credential, endpoint, getenv("DEMO_RESOURCE"))
	if err != nil {
		report(event{Event: "broken", TookMS: time.Since(began).Milliseconds(), Text: reason(err)})
		return 1
	}
	report(event{Event: "arm", TookMS: time.Since(began).Milliseconds(), Text: text})
	return 0
}

func newCredential(clientID string) (azcore.TokenCredential, error) {
	options := &azidentity.ManagedIdentityCredentialOptions{}
	if clientID != "" {
		options.ID = azidentity.ClientID(clientID)
	}
	options.Retry.MaxRetries = -1 // the first answer counts, so that the times printed are the product's own
	return azidentity.NewManagedIdentityCredential(options)
}

// readScaleSet reads the scale set of this pod's node, as the pod's identity.
func readScaleSet(ctx context.Context, credential azcore.TokenCredential, endpoint, id string) (string, error) {
	resource, err := arm.ParseResourceID(id)
	if err != nil {
		return "", fmt.Errorf("DEMO_RESOURCE: %w", err)
	}
	own := cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
		cloud.ResourceManager: {Endpoint: endpoint, Audience: endpoint},
	}}
	client, err := armcompute.NewVirtualMachineScaleSetsClient(resource.SubscriptionID, credential,
		&arm.ClientOptions{ClientOptions: policy.ClientOptions{Cloud: own}, DisableRPRegistration: true})
	if err != nil {
		return "", err
	}
	answer, err := client.Get(ctx, resource.ResourceGroupName, resource.Name, nil)
	if err != nil {
		return "", err
	}
	names := []string{}
	if answer.Identity != nil {
		for id := range answer.Identity.UserAssignedIdentities {
			names = append(names, id[strings.LastIndex(id, "/")+1:])
		}
	}
	return fmt.Sprintf("scale set %s in %s has identities %s", *answer.Name, *answer.Location, strings.Join(names, ", ")), nil
}

// claims decodes a token's middle part without verifying the token, which is the receiver's task.
func claims(token string) map[string]any {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var out map[string]any
	if json.Unmarshal(raw, &out) != nil {
		return nil
	}
	return out
}

// reason returns the response body if there is one, or else the SDK's text.
func reason(err error) string {
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) && failed.RawResponse != nil {
		body, readErr := runtime.Payload(failed.RawResponse)
		var answer struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if readErr == nil && json.Unmarshal(body, &answer) == nil && answer.Error != "" {
			return fmt.Sprintf("%s, %s: %s", failed.RawResponse.Status, answer.Error, answer.Description)
		}
	}
	return err.Error()
}
