package compute

// Client: what the two kinds of node group share on the way to ARM.

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

// The operations that an Observer hears of. They are the operation_type labels of AAD Pod Identity
// 1.8's metrics.
const (
	GetVM     = "vm_get"
	PatchVM   = "vm_update"
	GetVMSS   = "vmss_get"
	PatchVMSS = "vmss_update"
)

// Observer is called after every ARM call: a read, or a PATCH with its long-running operation to
// the end. err is nil when it went well. It must not block.
type Observer func(operation string, took time.Duration, err error)

// Options is what a Client needs. Credential and Cloud are required.
type Options struct {
	Credential azcore.TokenCredential
	Cloud      cloud.Configuration
	// Transport carries the requests; nil means the SDK's own, which trusts the system's
	// certificates.
	Transport policy.Transporter
	// ClientID is the client ID behind the Credential, if it is known: errors say, shortened, who
	// lacks a right.
	ClientID string
	// Observe may be nil.
	Observe Observer
}

// Client reads and patches identities through ARM. It holds no state about groups but how much
// Azure lets it ask (the limits of Options.Credential) and is safe for concurrent use; that there
// is one operation at a time per group is the caller's duty (ARM refuses a second one: IsConflict).
type Client struct {
	options Options
	limits  *limits
	recent  recent
}

// Bounds of one call. ARM usually answers within a second and takes 10 to 60 s for an update; the
// longest seen is 16 minutes.
const (
	readTimeout  = time.Minute
	patchTimeout = 10 * time.Minute
	tryTimeout   = 30 * time.Second
	maxRetries   = 2 // so three tries
	retryDelay   = 500 * time.Millisecond
	maxDelay     = 5 * time.Second
)

// apiVersion is the version of Microsoft.Compute that is asked for. The SDK's own is only months
// old; national clouds lag behind by more than that. This one knows identities in PATCH and ETags,
// which is all we need.
const apiVersion = "2024-07-01"

// New makes a client. It does not talk to Azure.
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

// snapshot is a node group's identities at one moment; etag changes with every change of the group
// and may be empty.
type snapshot struct {
	Identities
	etag string
}

// Get reads the identities of a node group. Right after a Patch it returns what that has read at
// its end.
func (c *Client) Get(ctx context.Context, group Group) (Identities, error) {
	if have, ok := c.recent.after(group, time.Now()); ok && ctx.Err() == nil {
		return have.Identities, nil
	}
	have, err := c.get(ctx, group)
	return have.Identities, err
}

// Pause returns how long not to call Azure about this group, as far as is known now: 0 means go
// ahead. It does not block and reserves nothing. Get and Patch called all the same wait their turn
// for a few seconds, or fail with RetryAfter without asking Azure.
func (c *Client) Pause(group Group) time.Duration {
	return c.limits.pause(group, time.Now())
}

// get is one read, measured and bounded in time.
func (c *Client) get(ctx context.Context, group Group) (snapshot, error) {
	start := time.Now()
	have, err := c.read(ctx, group)
	c.observe(operationOf(group, GetVM, GetVMSS), start, err)
	return have, err
}

// read is get without being measured.
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

// refuse is what the caller hears of err.
func (c *Client) refuse(act string, group Group, requested []string, err error) error {
	err = refuse(act, group, requested, err)
	if r, ok := errors.AsType[*refusal](err); ok {
		r.runsAs = c.options.ClientID
	}
	return err
}

// operationOf picks the name of a call by the kind of group it is about.
func operationOf(group Group, vm, vmss string) string {
	if group.Kind == VMSS {
		return vmss
	}
	return vm
}

// arm are the SDK's options for calls about one group. The SDK's client is made for each call: it
// is a few allocations, the connections belong to the transport and the token to the credential,
// and so nothing here has to be evicted. watch sees every single request, too.
func (c *Client) arm(group Group, watch ...policy.Policy) *arm.ClientOptions {
	return &arm.ClientOptions{
		DisableRPRegistration: true, // we hold no right to register providers, and machines exist already
		ClientOptions: policy.ClientOptions{
			Cloud:     c.options.Cloud,
			Transport: c.options.Transport,
			Telemetry: policy.TelemetryOptions{ApplicationID: "podid"},
			PerCallPolicies: []policy.Policy{
				versionPolicy{path: group.ResourceID()}, gatePolicy{limits: c.limits, group: group},
			},
			PerRetryPolicies: append([]policy.Policy{learnPolicy{limits: c.limits, group: group}}, watch...),
			Retry: policy.RetryOptions{
				MaxRetries: maxRetries, TryTimeout: tryTimeout, RetryDelay: retryDelay, MaxRetryDelay: maxDelay,
				ShouldRetry: shouldRetry,
			},
		},
	}
}

// shouldRetry admits what passes by itself within seconds. 429 is not among it: the caller's queue
// obeys Retry-After and collects more work meanwhile, where a retry in here would only hold the
// group.
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

// versionPolicy sets apiVersion on requests for the resource itself. URLs that ARM hands out for
// polling are opaque (and signed): those stay.
type versionPolicy struct{ path string }

// Do is policy.Policy.
func (v versionPolicy) Do(req *policy.Request) (*http.Response, error) {
	url := req.Raw().URL
	if strings.HasSuffix(ascii.ToLower(url.Path), ascii.ToLower(v.path)) {
		query := url.Query()
		query.Set("api-version", apiVersion)
		url.RawQuery = query.Encode()
	}
	return req.Next()
}

// longestPause bounds what a header can ask for; ARM's own limits refill within the hour.
const longestPause = time.Hour

// retryAfter reads how long the service wants to be left alone; 0 when it does not say.
func retryAfter(header http.Header) time.Duration {
	return min(askedPause(header), longestPause)
}

// askedPause is the pause as the header has it. The milliseconds come first, as in the SDK.
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

// value is the string behind a pointer of the SDK's, empty for nil.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// optional is the SDK's pointer to a string, nil when it is empty.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
