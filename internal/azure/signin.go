// The Azure SDK's credentials, and readable versions of their errors.

package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/podid-io/podid/internal/observe"
)

// signIn returns the SDK's credential for the config.
func signIn(config Config, choose CredentialOptions) (azcore.TokenCredential, error) {
	options := azcore.ClientOptions{
		Cloud: config.Endpoints(), Transport: choose.Transport, PerCallPolicies: []policy.Policy{UserAgent(choose.UserAgent)},
	}
	if config.ManagedIdentity {
		return managedIdentity(config.UserAssignedIdentityID, options)
	}
	options.Retry = policy.RetryOptions{MaxRetries: 2, TryTimeout: 20 * time.Second, MaxRetryDelay: 5 * time.Second}
	choice := &azidentity.ClientSecretCredentialOptions{
		ClientOptions: options,
		// Instance discovery asks Entra ID to confirm an authority. A private cloud's authority is
		// unknown there, and a disconnected cloud cannot reach Entra ID.
		DisableInstanceDiscovery: config.Cloud.Private() || config.TenantID == adfsTenant,
	}
	credential, err := azidentity.NewClientSecretCredential(config.TenantID, config.ClientID, config.ClientSecret.Reveal(), choice)
	if err != nil {
		return nil, fmt.Errorf("sign in as service principal %s: %w", observe.ShortID(config.ClientID), err)
	}
	return credential, nil
}

// managedIdentity returns a credential for an identity of the machine. id is a client ID, a
// resource ID, or empty for the system-assigned one.
func managedIdentity(id string, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	if options.Transport == nil {
		options.Transport = direct()
	}
	choice := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	switch {
	case strings.HasPrefix(id, "/"):
		choice.ID = azidentity.ResourceID(id)
	case id != "":
		choice.ID = azidentity.ClientID(id)
	}
	credential, err := azidentity.NewManagedIdentityCredential(choice)
	if err != nil {
		return nil, fmt.Errorf("sign in with a managed identity: %w", err)
	}
	return credential, nil
}

// direct returns a client that ignores proxy settings. The metadata service is only reachable from
// the machine itself, and a proxy must not see its tokens.
func direct() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 nil,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConns:          2,
			IdleConnTimeout:       time.Minute,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: time.Minute,
		},
		// The metadata service never redirects, and a token request must not be sent elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// signInError is a one-line error without full client IDs. It wraps the SDK's error, which fills a
// page.
type signInError struct {
	text string
	err  error
}

// Error returns the line.
func (e *signInError) Error() string { return e.text }

// Unwrap returns the SDK's error, so that callers do not retry errors that the SDK marks as final.
func (e *signInError) Unwrap() error { return e.err }

// explain converts the SDK's error to a signInError.
func (c Config) explain(ctx context.Context, err error) error {
	who, remedy := "service principal "+observe.ShortID(c.ClientID), "check tenantId, aadClientId and aadClientSecret in the cloud config"
	if c.ManagedIdentity {
		who = strings.TrimSpace("managed identity " + nameOf(c.UserAssignedIdentityID))
		remedy = "check that the machines have this identity, " +
			"and that an AzurePodIdentityException lets this pod reach the metadata service"
	}
	if ctx.Err() != nil {
		return fmt.Errorf("sign in as %s: %w", who, ctx.Err()) // the SDK's error hides it
	}
	said, status := reason(err)
	switch {
	case status == 0 && !c.ManagedIdentity:
		remedy = "check that Entra ID can be reached, and for a private cloud that SSL_CERT_FILE names its CA"
	case status >= http.StatusInternalServerError, status == http.StatusTooManyRequests:
		remedy = "Azure is in trouble; this is tried again"
	}
	return &signInError{text: fmt.Sprintf("sign in as %s: %s (%s)", who, said, remedy), err: err}
}

// nameOf returns the last part of a resource ID, or a shortened client ID.
func nameOf(id string) string {
	if slash := strings.LastIndexByte(id, '/'); slash >= 0 {
		return id[slash+1:]
	}
	return observe.ShortID(id)
}

// guid matches client, object and trace IDs in Entra ID's messages, except in the path of a URL.
var guid = regexp.MustCompile(`(?i)(^|[^/0-9a-f-])([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// reason returns the relevant sentence and the HTTP status of the response of Entra ID or the
// metadata service. The status is 0 if there was no response.
func reason(err error) (said string, status int) {
	said = err.Error()
	if failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok && failed.RawResponse != nil {
		status = failed.RawResponse.StatusCode
		said = fmt.Sprintf("HTTP %d", status)
		if body, readErr := runtime.Payload(failed.RawResponse); readErr == nil {
			said = spoken(body, said)
		}
	}
	const limit = 400
	said = guid.ReplaceAllString(strings.Join(strings.Fields(said), " "), "$1$2…")
	if len(said) > limit {
		said = strings.ToValidUTF8(said[:limit], "") + "…"
	}
	return said, status
}

// spoken returns the description in an OAuth error body without the trace IDs that Entra ID
// appends.
func spoken(body []byte, otherwise string) string {
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Error+answer.Description == "" {
		return otherwise
	}
	if answer.Description == "" {
		return answer.Error
	}
	description, _, _ := strings.Cut(answer.Description, "Trace ID:")
	return description
}
