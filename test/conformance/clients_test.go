// The clients: how each is run, what it supports, and how it handles errors.
package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sdk is a library in one version.
type sdk struct {
	name    string
	command []string
	env     []string
	// can are the ways to name an identity, besides a client ID and none.
	can map[way]bool
	// noRetry are the transient statuses that the library does not retry.
	noRetry map[int]bool
	// honors are the statuses for which it waits as long as Retry-After demands.
	honors map[int]bool
	// messages are the errors that the application gets for a status, if it is not the agent's
	// message.
	messages map[int]string

	pod, excepted *pod
}

// way is how a client names an identity.
type way string

const (
	byClientID   way = "client id"
	byObjectID   way = "object id"
	byResourceID way = "resource id"
	byNothing    way = "nothing named"
	byChain      way = "default chain"
	// byAuthority means that AZURE_POD_IDENTITY_AUTHORITY_HOST names the service, which is not
	// probed then.
	byAuthority way = "authority host"
)

func can(ways ...way) map[way]bool {
	m := map[way]bool{byClientID: true, byNothing: true}
	for _, w := range ways {
		m[w] = true
	}
	return m
}

func these(statuses ...int) map[int]bool {
	m := map[int]bool{}
	for _, s := range statuses {
		m[s] = true
	}
	return m
}

// all returns the clients. What they do not retry was measured with these versions.
func all(b built) []*sdk {
	golang := func(name string) []string { return []string{b.golang[name]} }
	node := func(version string) []string { return []string{b.node.Program, b.node.Scripts[version]} }
	list := []*sdk{
		{name: "azidentity-1.15", command: golang("azidentity"), can: can(byObjectID, byResourceID, byChain), noRetry: these(408), honors: these(429, 503)},
		{name: "azidentity-1.1", command: golang("azidentity-1.1"), can: can(byResourceID, byChain), noRetry: these(408, 410, 503), honors: these(429, 503)},
		{
			name: "azidentity-0.11", command: golang("azidentity-0.11"), can: can(byResourceID, byChain), noRetry: these(503), honors: these(429, 503),
			messages: map[int]string{400: "The requested identity isn't assigned to this resource"},
		},
		{name: "adal-0.9", command: golang("adal-0.9"), can: can(byResourceID)},
		{name: "adal-0.5", command: golang("adal-0.5"), can: can()},
		{name: "identity-js-4.14", command: node("4.14"), can: can(byObjectID, byResourceID, byChain, byAuthority), honors: these(429, 503)},
		{name: "identity-js-3.4", command: node("3.4"), can: can(byResourceID, byChain, byAuthority), noRetry: these(410), honors: these(429, 503)},
		{name: "identity-js-2.1", command: node("2.1"), can: can(byResourceID, byChain, byAuthority), noRetry: these(410), honors: these(429, 503)},
		{
			name: "identity-js-1.2", command: node("1.2"), env: []string{"LIBRARY=1.2"}, can: can(byChain), noRetry: these(404, 410), honors: these(429),
			messages: map[int]string{400: "there's no available identity"},
		},
	}
	if b.python == nil {
		return list
	}
	python := []string{b.python.Interpreter, "-s", "-B", b.python.Script}
	path := "PYTHONPATH=" + b.python.Path
	return append(list,
		&sdk{
			name: "identity-python-1.13", command: python, env: []string{path, "LIBRARY=azure-identity"},
			can: can(byObjectID, byResourceID, byChain, byAuthority), noRetry: these(410), honors: these(429, 503),
			messages: map[int]string{400: "The requested identity has not been assigned to this resource"},
		},
		&sdk{
			name: "msrestazure-0.6", command: python, env: []string{path, "LIBRARY=msrestazure"},
			can: can(byObjectID, byResourceID), noRetry: these(408),
			messages: map[int]string{400: "HTTPError", 403: "HTTPError"}, // the response is in the
		})
}

// output is what a client printed.
type output struct {
	Token     string `json:"token"`
	ClientID  string `json:"clientID"`
	Audience  string `json:"audience"`
	ExpiresIn int    `json:"expiresIn"`

	// failure is the error if it got no token.
	failure string
}

// attempts is how often a client is run that gave up by itself. Some probe with a limit of 0.3 s,
// which an overloaded machine can exceed. A slow agent fails the last attempt, too.
const attempts = 6

// asked runs the client, and again if it gave up although no request was refused. It returns what
// it sent in the last run.
func (w *stage) asked(t *testing.T, c *sdk, p *pod, env ...string) (h output, sent []exchange) {
	t.Helper()
	for range attempts {
		var err error
		h, err = w.ask(t, c, p, env...)
		must(t, err)
		sent = p.wire.all(t)
		if h.failure == "" || slices.ContainsFunc(tokenRequests(sent), func(e exchange) bool { return e.status >= http.StatusBadRequest }) {
			break
		}
		t.Logf("%s gave up by itself: %s", c.name, h.failure)
	}
	return h, sent
}

// ask runs the client in a pod's network.
func (w *stage) ask(t *testing.T, c *sdk, p *pod, env ...string) (output, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atMost+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	// PATH has no programs, because default chains run those of Azure.
	cmd.Env = append(append([]string{"PATH=/nonexistent", "HOME=" + w.dir, "SHOW_TOKEN=1", "NODE_NO_WARNINGS=1"}, c.env...), env...)
	cmd.Dir = w.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := p.net.Do(cmd.Start); err != nil {
		return output{}, err
	}
	err := cmd.Wait()
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return output{}, fmt.Errorf("%s did not end: %s", c.name, errs.String())
	case errors.As(err, &ended) && ended.ExitCode() == 1:
		return output{failure: strings.TrimSpace(errs.String())}, nil
	case err != nil:
		return output{}, fmt.Errorf("%s: %w: %s", filepath.Base(c.command[0]), err, errs.String())
	}
	var h output
	if err := json.Unmarshal(out.Bytes(), &h); err != nil {
		return output{}, fmt.Errorf("%s printed %q: %w", c.name, out.String(), err)
	}
	return h, nil
}
