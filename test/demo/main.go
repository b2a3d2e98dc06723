// Command demo is the application of the demonstration: a pod that was written for Azure and knows nothing of podid.
// It gets a token with the Azure SDK's managed identity credential, calls Azure Resource Manager with it, and tells
// what happened, one JSON object a line. It never prints the token.
//
//	AZURE_CLIENT_ID          which identity; the pod's default one when empty
//	DEMO_ARM_ENDPOINT        where Azure Resource Manager is, for a cloud of one's own
//	DEMO_RESOURCE            the ARM ID of the scale set to read
//	DEMO_TIMEOUT             how long to try; 60s when empty
//	SSL_CERT_FILE            whom to trust, as everywhere in Go
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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Getenv, os.Stdout)
	stop()
	os.Exit(code)
}

// event is one line of output.
type event struct {
	Event string    `json:"event"` // started, token, refused, arm
	Time  time.Time `json:"time"`
	// TookMS is how long the step took, in milliseconds.
	TookMS int64          `json:"tookMS,omitempty"`
	Claims map[string]any `json:"claims,omitempty"`
	// Text is ARM's answer in a few words, or why there was no token.
	Text string `json:"text,omitempty"`
}

// run returns 0 when there was a token and ARM took it, 3 when the token was refused, and 1 for everything else.
func run(ctx context.Context, getenv func(string) string, out io.Writer) int {
	tell := func(e event) {
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
			tell(event{Event: "broken", Text: "DEMO_TIMEOUT: " + err.Error()})
			return 1
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tell(event{Event: "started"})
	credential, err := newCredential(getenv("AZURE_CLIENT_ID"))
	if err != nil {
		tell(event{Event: "broken", Text: err.Error()})
		return 1
	}
	endpoint := getenv("DEMO_ARM_ENDPOINT")
	began := time.Now()
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{endpoint + "/.default"}})
	if err != nil {
		tell(event{Event: "refused", TookMS: time.Since(began).Milliseconds(), Text: reason(err)})
		return 3
	}
	tell(event{Event: "token", TookMS: time.Since(began).Milliseconds(), Claims: claims(token.Token)})
	began = time.Now()
	text, err := readScaleSet(ctx, credential, endpoint, getenv("DEMO_RESOURCE"))
	if err != nil {
		tell(event{Event: "broken", TookMS: time.Since(began).Milliseconds(), Text: reason(err)})
		return 1
	}
	tell(event{Event: "arm", TookMS: time.Since(began).Milliseconds(), Text: text})
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

// readScaleSet reads the scale set that this pod's node belongs to, as the identity of the pod.
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

// claims decodes a token's middle part. Nobody verifies it here: that is for whoever gets the token.
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

// reason is the answer's body where there is one, else the SDK's words.
func reason(err error) string {
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) && failed.RawResponse != nil {
		body, readErr := runtime.Payload(failed.RawResponse)
		var told struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if readErr == nil && json.Unmarshal(body, &told) == nil && told.Error != "" {
			return fmt.Sprintf("%s, %s: %s", failed.RawResponse.Status, told.Error, told.Description)
		}
	}
	return err.Error()
}
