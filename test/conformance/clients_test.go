// The clients: how each is run, what it can say, and how it takes errors.
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

// sdk is one library in one version.
type sdk struct {
	name    string
	command []string
	env     []string
	// can are the ways to name an identity, besides by client id and not at all.
	can map[way]bool
	// gives are the statuses that pass by themselves and that the library gives up at instead of
	// trying again.
	gives map[int]bool
	// honours are the statuses with which it waits as long as a Retry-After tells it to.
	honours map[int]bool
	// tells is what of a refusal the application gets to see, by status, where it is not what the
	// agent said.
	tells map[int]string

	pod, excepted *pod
}

// way is a way to ask.
type way string

const (
	byClientID   way = "client id"
	byObjectID   way = "object id"
	byResourceID way = "resource id"
	byNothing    way = "nothing named"
	byChain      way = "default chain"
	// byAuthority takes the service's address from AZURE_POD_IDENTITY_AUTHORITY_HOST, and does not
	// probe then.
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

// all are the clients. What they give up at was measured with these versions.
func all(b built) []*sdk {
	golang := func(name string) []string { return []string{b.golang[name]} }
	node := func(version string) []string { return []string{b.node.Program, b.node.Scripts[version]} }
	list := []*sdk{
		{name: "azidentity-1.15", command: golang("azidentity"), can: can(byObjectID, byResourceID, byChain), gives: these(408), honours: these(429, 503)},
		{name: "azidentity-1.1", command: golang("azidentity-1.1"), can: can(byResourceID, byChain), gives: these(408, 410, 503), honours: these(429, 503)},
		{
			name: "azidentity-0.11", command: golang("azidentity-0.11"), can: can(byResourceID, byChain), gives: these(503), honours: these(429, 503),
			tells: map[int]string{400: "The requested identity isn't assigned to this resource"},
		},
		{name: "adal-0.9", command: golang("adal-0.9"), can: can(byResourceID)},
		{name: "adal-0.5", command: golang("adal-0.5"), can: can()},
		{name: "identity-js-4.14", command: node("4.14"), can: can(byObjectID, byResourceID, byChain, byAuthority), honours: these(429, 503)},
		{name: "identity-js-3.4", command: node("3.4"), can: can(byResourceID, byChain, byAuthority), gives: these(410), honours: these(429, 503)},
		{name: "identity-js-2.1", command: node("2.1"), can: can(byResourceID, byChain, byAuthority), gives: these(410), honours: these(429, 503)},
		{
			name: "identity-js-1.2", command: node("1.2"), env: []string{"LIBRARY=1.2"}, can: can(byChain), gives: these(404, 410), honours: these(429),
			tells: map[int]string{400: "there's no available identity"},
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
			can: can(byObjectID, byResourceID, byChain, byAuthority), gives: these(410), honours: these(429, 503),
			tells: map[int]string{400: "The requested identity has not been assigned to this resource"},
		},
		&sdk{
			name: "msrestazure-0.6", command: python, env: []string{path, "LIBRARY=msrestazure"},
			can: can(byObjectID, byResourceID), gives: these(408),
			tells: map[int]string{400: "HTTPError", 403: "HTTPError"}, // the answer is in the error's response
		})
}

// heard is what a client told.
type heard struct {
	Token     string `json:"token"`
	ClientID  string `json:"clientID"`
	Audience  string `json:"audience"`
	ExpiresIn int    `json:"expiresIn"`

	// failure is what it said when it got no token.
	failure string
}

// tries is how often a client is run again that gave up by itself. Some probe with a limit of 0.3
// s, and on a machine with more to do than processors that is not even theirs to keep. An agent
// that is slow fails the last try, too.
const tries = 6

// asked runs the client, and again if it gave up although nobody refused it; it returns what it
// sent the last time.
func (w *stage) asked(t *testing.T, c *sdk, p *pod, env ...string) (h heard, sent []exchange) {
	t.Helper()
	for range tries {
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
func (w *stage) ask(t *testing.T, c *sdk, p *pod, env ...string) (heard, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atMost+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	// Without programs in PATH: default chains ask those of Azure's that they find.
	cmd.Env = append(append([]string{"PATH=/nonexistent", "HOME=" + w.dir, "SHOW_TOKEN=1", "NODE_NO_WARNINGS=1"}, c.env...), env...)
	cmd.Dir = w.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := p.net.Do(cmd.Start); err != nil {
		return heard{}, err
	}
	err := cmd.Wait()
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return heard{}, fmt.Errorf("%s did not end: %s", c.name, errs.String())
	case errors.As(err, &ended) && ended.ExitCode() == 1:
		return heard{failure: strings.TrimSpace(errs.String())}, nil
	case err != nil:
		return heard{}, fmt.Errorf("%s: %w: %s", filepath.Base(c.command[0]), err, errs.String())
	}
	var h heard
	if err := json.Unmarshal(out.Bytes(), &h); err != nil {
		return heard{}, fmt.Errorf("%s said %q: %w", c.name, out.String(), err)
	}
	return h, nil
}
