// Client: the ARM access that both kinds of node group share.

package compute

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/podid-io/podid/internal/ascii"
)

// MaxPerPatch is how many identities one PATCH may name: Azure's limit of one update.
const MaxPerPatch = 150

// The operations reported to an Observer. They are the operation_type labels of AAD Pod Identity
// 1.8's metrics.
const (
	GetVM     = "vm_get"
	PatchVM   = "vm_update"
	GetVMSS   = "vmss_get"
	PatchVMSS = "vmss_update"
)

// Observer is called after every ARM call: a read, or a PATCH including its long-running operation.
// err is nil on success. It must not block.
type Observer func(operation string, took time.Duration, err error)

// Options configures a Client. Credential and Cloud are required.
type Options struct {
	Credential azcore.TokenCredential
	Cloud      cloud.Configuration
	// Transport carries the requests; nil means the SDK's own, which trusts the system's
	// certificates.
	Transport policy.Transporter
	// ClientID is the client ID of the Credential, if it is known. Errors about missing rights show it
	// in short form.
	ClientID string
	// Observe may be nil.
	Observe Observer
	// PerCall are more policies, applied once to each call.
	PerCall []policy.Policy
}

// Client reads and patches identities through ARM. The only state it keeps about groups is how many
// calls Azure allows (the limits of Options.Credential) and recent reads. It is safe for concurrent
// use. The caller must run one operation at a time per group; ARM refuses a second one
// (IsConflict).
type Client struct {
	options Options
	limits  *limits
	recent  recent
}

// Bounds of one call. ARM usually answers within a second and needs 10 to 60 s for an update; the
// longest observed took 16 minutes.
const (
	readTimeout  = time.Minute
	patchTimeout = 10 * time.Minute
	tryTimeout   = 30 * time.Second
	maxRetries   = 2 // three attempts
	retryDelay   = 500 * time.Millisecond
	maxDelay     = 5 * time.Second
)

// apiVersion is the requested version of Microsoft.Compute. The SDK's default is only months old,
// and national clouds lag further behind. This version supports identities in PATCH and ETags,
// which is all that this package needs.
const apiVersion = "2024-07-01"

// New returns a Client. It does not call Azure.
func New(options Options) (*Client, error) {
	if options.Credential == nil {
		return nil, errors.New("make ARM client: no credential")
	}
	manager := options.Cloud.Services[cloud.ResourceManager]
	if manager.Endpoint == "" || manager.Audience == "" {
		return nil, errors.New("make ARM client: the cloud has no resource manager endpoint")
	}
	if options.Observe == nil {
		options.Observe = func(string, time.Duration, error) {}
	}
	return &Client{options: options, limits: newLimits(), recent: recent{of: map[Group]lastRead{}}}, nil
}

// snapshot is a node group's identities at one moment. etag changes with every change of the group
// and may be empty.
type snapshot struct {
	Identities
	etag string
}

// Get reads the identities of a node group. Right after a Patch it returns the result of that
// Patch's last read.
func (c *Client) Get(ctx context.Context, group Group) (Identities, error) {
	if have, ok := c.recent.after(group, time.Now()); ok && ctx.Err() == nil {
		return have.Identities, nil
	}
	have, err := c.get(ctx, group)
	return have.Identities, err
}

// Pause returns how long not to call Azure about this group, as far as is known now; 0 means go
// ahead. since is when the first of the pods came that wait for it, or the zero time if none does:
// groups whose pods have waited longest are first, those without waiting pods last. It does not
// block and reserves nothing. Get and
// Patch calls during a pause wait a few seconds for their turn, or fail with RetryAfter without
// calling Azure.
func (c *Client) Pause(group Group, since time.Time) time.Duration {
	return c.limits.pause(group, since, time.Now())
}

// get is one read with metrics and a timeout.
func (c *Client) get(ctx context.Context, group Group) (snapshot, error) {
	start := time.Now()
	have, err := c.read(ctx, group)
	c.observe(operationOf(group, GetVM, GetVMSS), start, err)
	return have, err
}

// read is get without metrics.
func (c *Client) read(ctx context.Context, group Group) (snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	read := c.getVM
	if group.Kind == VMSS {
		read = c.getVMSS
	}
	have, err := read(ctx, group)
	if err == nil {
		c.recent.put(group, have, false, time.Now())
	}
	return have, c.refuse(reads, group, nil, err)
}

// observe reports a call, unless it was never sent.
func (c *Client) observe(operation string, start time.Time, err error) {
	if _, unsent := errors.AsType[*notSentError](err); !unsent {
		c.options.Observe(operation, time.Since(start), err)
	}
}

// refuse converts err to the error that the caller gets.
func (c *Client) refuse(act string, group Group, requested []string, err error) error {
	err = refuse(act, group, requested, err)
	if r, ok := errors.AsType[*refusal](err); ok {
		r.runsAs = c.options.ClientID
	}
	return err
}

// operationOf returns the name of a call by the kind of the group.
func operationOf(group Group, vm, vmss string) string {
	if group.Kind == VMSS {
		return vmss
	}
	return vm
}

// arm returns the SDK's options for calls about one group. Each call makes its own SDK client. That
// costs a few allocations, but connections belong to the transport and tokens to the credential, so
// nothing here has to be evicted. watch policies also see every single request.
func (c *Client) arm(group Group, watch ...policy.Policy) *arm.ClientOptions {
	return &arm.ClientOptions{
		DisableRPRegistration: true, // podid may not register providers, and machines exist already
		ClientOptions: policy.ClientOptions{
			Cloud:     c.options.Cloud,
			Transport: c.options.Transport,
			Telemetry: policy.TelemetryOptions{ApplicationID: "podid"},
			PerCallPolicies: append([]policy.Policy{
				versionPolicy{path: group.ResourceID()}, gatePolicy{limits: c.limits, group: group},
			}, c.options.PerCall...),
			PerRetryPolicies: append([]policy.Policy{learnPolicy{limits: c.limits, group: group}}, watch...),
			Retry: policy.RetryOptions{
				MaxRetries: maxRetries, TryTimeout: tryTimeout, RetryDelay: retryDelay, MaxRetryDelay: maxDelay,
				ShouldRetry: shouldRetry,
			},
		},
	}
}

// shouldRetry reports whether a failure is likely to pass within seconds. It excludes 429: the
// caller's queue obeys Retry-After and collects more work meanwhile, while a retry here would only
// block the group.
func shouldRetry(resp *http.Response, err error) bool {
	if err != nil {
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		return !untrusted
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

// versionPolicy sets apiVersion on requests for the resource itself. Polling URLs from ARM are
// opaque (and signed), so it does not change them.
type versionPolicy struct{ path string }

// Do implements policy.Policy.
func (v versionPolicy) Do(req *policy.Request) (*http.Response, error) {
	url := req.Raw().URL
	if strings.HasSuffix(ascii.ToLower(url.Path), ascii.ToLower(v.path)) {
		query := url.Query()
		query.Set("api-version", apiVersion)
		url.RawQuery = query.Encode()
	}
	return req.Next()
}

// longestPause bounds the pause that a header can request; ARM's own limits refill within an hour.
const longestPause = time.Hour

// retryAfter returns the pause that the service requests, or 0 if there is none.
func retryAfter(header http.Header) time.Duration {
	return min(askedPause(header), longestPause)
}

// askedPause returns the pause from the header, unbounded. The header in milliseconds takes
// precedence, as in the SDK.
func askedPause(header http.Header) time.Duration {
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if ms, err := strconv.ParseUint(header.Get(name), 10, 31); err == nil {
			return time.Duration(ms) * time.Millisecond
		}
	}
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// value returns the string that s points to, or "" for nil.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// optional returns a pointer to s, or nil if it is empty.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
