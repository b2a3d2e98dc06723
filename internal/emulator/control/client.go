// The Go client of the control API.

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// Client controls a running emulator.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client for the control API at base, such as http://127.0.0.1:8447.
func NewClient(base string) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), http: &http.Client{Timeout: maxWait + 10*time.Second}}
}

// Over returns a copy of the client with another transport, for a control API in another network
// namespace.
func (c *Client) Over(transport http.RoundTripper) *Client {
	return &Client{base: c.base, http: &http.Client{Timeout: c.http.Timeout, Transport: transport}}
}

// Machine is the state of a VM or scale set.
type Machine struct {
	ID             string   `json:"id"`
	Name           string   `json:"name"`
	Updating       bool     `json:"updating"`
	SystemAssigned bool     `json:"systemAssigned"`
	Identities     []string `json:"identities"` // what ARM shows
	OnIMDS         []string `json:"onIMDS"`     // what IMDS knows
}

// World returns the world. Secrets are masked unless requested.
func (c *Client) World(ctx context.Context, secrets bool) (world.Document, error) {
	var doc world.Document
	err := c.do(ctx, http.MethodGet, "/v1/world", url.Values{"secrets": {strconv.FormatBool(secrets)}}, nil, &doc)
	return doc, err
}

// SetWorld replaces the world.
func (c *Client) SetWorld(ctx context.Context, doc world.Document) error {
	return c.do(ctx, http.MethodPut, "/v1/world", nil, doc, nil)
}

// SetSettings changes the given settings: a map or struct that encodes as a part of world.Settings.
func (c *Client) SetSettings(ctx context.Context, settings any) error {
	return c.do(ctx, http.MethodPatch, "/v1/settings", nil, settings, nil)
}

// Machines returns the state of the machine of that name, or of all if name is empty.
func (c *Client) Machines(ctx context.Context, name string) ([]Machine, error) {
	var list []Machine
	err := c.do(ctx, http.MethodGet, "/v1/machines", url.Values{"name": {name}}, nil, &list)
	return list, err
}

// PutIdentity adds or replaces a user-assigned identity.
func (c *Client) PutIdentity(ctx context.Context, i world.Identity) error {
	return c.do(ctx, http.MethodPut, "/v1/identities", nil, i, nil)
}

// DeleteIdentity deletes a user-assigned identity. As on Azure, machines that have it still list
// it.
func (c *Client) DeleteIdentity(ctx context.Context, resourceID string) error {
	return c.do(ctx, http.MethodDelete, "/v1/identities", url.Values{"resourceID": {resourceID}}, nil, nil)
}

// RecreateIdentity deletes a user-assigned identity, creates it again under the same name and
// returns the new one. Machines that list it no longer have it until it is removed and assigned
// again.
func (c *Client) RecreateIdentity(ctx context.Context, resourceID string) (world.Identity, error) {
	var fresh world.Identity
	err := c.do(ctx, http.MethodPost, "/v1/identities/recreate", url.Values{"resourceID": {resourceID}}, nil, &fresh)
	return fresh, err
}

// PutApplication adds or replaces an application.
func (c *Client) PutApplication(ctx context.Context, a world.Application) error {
	return c.do(ctx, http.MethodPut, "/v1/applications", nil, a, nil)
}

// PutIssuer adds or replaces an external issuer whose keys Entra ID knows.
func (c *Client) PutIssuer(ctx context.Context, i world.Issuer) error {
	return c.do(ctx, http.MethodPut, "/v1/issuers", nil, i, nil)
}

// PutVM adds or replaces a VM.
func (c *Client) PutVM(ctx context.Context, m world.Machine) error {
	return c.do(ctx, http.MethodPut, "/v1/virtualMachines", nil, m, nil)
}

// PutScaleSet adds or replaces a scale set.
func (c *Client) PutScaleSet(ctx context.Context, m world.Machine) error {
	return c.do(ctx, http.MethodPut, "/v1/scaleSets", nil, m, nil)
}

// SetFault adds or replaces a fault.
func (c *Client) SetFault(ctx context.Context, f world.Fault) error {
	return c.do(ctx, http.MethodPut, "/v1/faults", nil, f, nil)
}

// RemoveFault removes a fault, or all when name is empty.
func (c *Client) RemoveFault(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/faults", url.Values{"name": {name}}, nil, nil)
}

// Requests returns entries of the request log. With wait, it waits that long (at most a minute) for
// the first match.
func (c *Client) Requests(ctx context.Context, f world.Filter, wait time.Duration) ([]world.Request, error) {
	q := url.Values{
		"surface": {f.Surface}, "method": {f.Method}, "caller": {f.Caller}, "path": {f.Path},
		"after": {strconv.FormatUint(f.After, 10)}, "wait": {wait.String()},
	}
	if f.Status != 0 {
		q.Set("status", strconv.Itoa(f.Status))
	}
	var list []world.Request
	err := c.do(ctx, http.MethodGet, "/v1/requests", q, nil, &list)
	return list, err
}

// Reset restores the world that the emulator started with.
func (c *Client) Reset(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/reset", nil, nil, nil)
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body, into any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("emulator: %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+query.Encode(), content)
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("emulator: %s %s: %w", method, path, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("emulator: %s %s: %s: %s", method, path, answer.Status, bytes.TrimSpace(data))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("emulator: %s %s: %w", method, path, err)
	}
	return nil
}
