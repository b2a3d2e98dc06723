// How clients handle errors.
package conformance_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator/world"
)

// errors lets everything go wrong that a client must handle.
func (w *stage) errors(t *testing.T, c *sdk) {
	t.Run("final", func(t *testing.T) { w.final(t, c) })
	t.Run("identity arrives late", func(t *testing.T) { w.arrives(t, c, late, http.StatusNotFound) })
	t.Run("node's own trouble", func(t *testing.T) { w.trouble(t, c) })
	t.Run("as the metadata service says", func(t *testing.T) {
		for _, status := range []int{404, 408, 410, 500, 502, 503} {
			t.Run(fmt.Sprint(status), func(t *testing.T) { w.once(t, c, status) })
		}
	})
}

// final refusals must not be retried: the application gets the error at once.
func (w *stage) final(t *testing.T, c *sdk) {
	for _, test := range []struct {
		name, id string
		status   int
		says     string
	}{
		{"an identity that the pod may not use", "nobody", http.StatusBadRequest, "Identity not found"},
		{"an identity in quarantine", quarantined, http.StatusForbidden, "set aside by the test"},
		{"a secret that is wrong", wrongSecret, http.StatusForbidden, "AADSTS7000215"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, sent := w.asked(t, c, c.pod, "RESOURCE="+vault, "CLIENT_ID="+named(test.id).ClientID)
			tokens := tokenRequests(sent)
			if says, ok := c.messages[test.status]; ok {
				test.says = says
			}
			switch {
			case h.failure == "":
				t.Error("it got a token that it must not have")
			case len(tokens) != 1 || tokens[0].status != test.status:
				t.Errorf("it was told %v, want %d once", statuses(tokens), test.status)
			case !strings.Contains(h.failure, test.says):
				t.Errorf("the application is told %q; want to read %q", h.failure, test.says)
			}
		})
	}
}

// arrives assigns an identity after the client got an answer that it is not assigned.
func (w *stage) arrives(t *testing.T, c *sdk, name string, status int) {
	id := own(name, c)
	w.passing(t, c, c.pod, id, status, 20*time.Second, func() {
		w.assign(t, c, identityOf(name+"-"+plain(c.name), v1.UserAssignedMSI), v1.AzureAssignedIdentityStatus{Status: v1.StateAssigned})
	})
}

// trouble makes the metadata service fail for all attempts of the agent, so that the client sees
// one failure.
func (w *stage) trouble(t *testing.T, c *sdk) {
	id := own(sick, c)
	must(t, w.azure.World().SetFault(fault(id, byAgent(id), http.StatusServiceUnavailable, 0, 0)))
	w.passing(t, c, c.pod, id, http.StatusInternalServerError, 0, func() { w.azure.World().RemoveFault(id.ClientID) })
}

// once makes the metadata service answer once with a status, which an excepted pod gets unchanged.
func (w *stage) once(t *testing.T, c *sdk, status int) {
	id := own(ill, c)
	must(t, w.azure.World().SetFault(fault(id, byItself(id), status, 0, 1)))
	w.passing(t, c, c.excepted, id, status, 0, func() {})
	w.azure.World().RemoveFault(id.ClientID)
}

// throttled makes the metadata service answer 429 once. The agent waits by itself for up to two
// seconds. Longer waits are the client's.
func (w *stage) throttled(t *testing.T, c *sdk) {
	id, pause := own(busy, c), 3*time.Second
	must(t, w.azure.World().SetFault(fault(id, byAgent(id), http.StatusTooManyRequests, pause, 1)))
	w.passing(t, c, c.pod, id, http.StatusTooManyRequests, pause, func() {})
	w.azure.World().RemoveFault(id.ClientID)
}

// byAgent and byItself match the query of a token request: that of the agent, which uses the
// resource ID, and that of an excepted pod.
func byAgent(id world.Identity) string {
	return "*msi_res_id=" + url.QueryEscape(id.ResourceID) + "*vault*"
}

func byItself(id world.Identity) string { return "*client_id=" + id.ClientID + "*vault*" }

// fault returns a fault of the token requests with such a query.
func fault(id world.Identity, query string, status int, retryAfter time.Duration, count int) world.Fault {
	return world.Fault{
		Name: id.ClientID, Surface: world.SurfaceIMDS, Query: query,
		Status: status, RetryAfter: int(retryAfter / time.Second), Count: count,
	}
}

// retryAfter tests an agent with set-retry-after-header, which answers 503 while an identity is not
// assigned.
func (w *stage) retryAfter(t *testing.T, c *sdk) {
	w.arrives(t, c, later, http.StatusServiceUnavailable)
}

// passing runs the client into a transient status, and calls passed once it was answered. The
// client must recover, or give up at once if it is known to. For 429 and 503 it must wait for
// pause.
func (w *stage) passing(t *testing.T, c *sdk, p *pod, id world.Identity, status int, pause time.Duration, passed func()) {
	t.Helper()
	var got output
	var all []exchange
	saw := false
	for range attempts {
		got, saw = w.until(t, c, p, id, status, passed)
		if all = tokenRequests(p.wire.all(t)); len(all) > 0 {
			break
		}
		t.Logf("%s gave up by itself: %s", c.name, got.failure)
	}
	t.Logf("%v", statuses(all))
	switch {
	case !saw:
		t.Errorf("it was never told %d: %v %s", status, statuses(all), got.failure)
	case c.noRetry[status] && got.failure == "":
		t.Errorf("it recovered from %d (%v); it did not before: note it in docs/clients.md", status, statuses(all))
	case c.noRetry[status] && len(all) != 1:
		t.Errorf("it gave up after %v, want after the first %d", statuses(all), status)
	case !c.noRetry[status] && got.failure != "":
		t.Errorf("it did not recover from %d: %v %s", status, statuses(all), got.failure)
	case len(all) > 1 && c.honors[status] && all[1].at.Sub(all[0].done) < pause/2: // the time of an answer is not exact
		t.Errorf("it was told to come back after %s: %v", pause, statuses(all))
	case got.failure == "":
		claims := w.verified(t, got.Token)
		if appid, _ := claims["appid"].(string); appid != id.ClientID {
			t.Errorf("the token is for %s, want %s", appid, id.ClientID)
		}
	}
}

// until runs the client and calls passed as soon as it was answered with the status.
func (w *stage) until(t *testing.T, c *sdk, p *pod, id world.Identity, status int, passed func()) (h output, saw bool) {
	t.Helper()
	ended, failed := make(chan time.Time), error(nil)
	go func() {
		defer close(ended)
		h, failed = w.ask(t, c, p, "RESOURCE="+vault, "CLIENT_ID="+id.ClientID)
	}()
	if saw = p.wire.answered(t, status, ended); saw {
		passed()
	}
	<-ended
	must(t, failed)
	return h, saw
}

// tokenRequests returns the requests that are no probes.
func tokenRequests(all []exchange) []exchange {
	var tokens []exchange
	for _, e := range all {
		if strings.Contains(strings.ToLower(e.head), "\nmetadata: true") {
			tokens = append(tokens, e)
		}
	}
	return tokens
}

// statuses returns the statuses of the answers, with the time between them.
func statuses(all []exchange) []string {
	var list []string
	for i, e := range all {
		text := fmt.Sprint(e.status)
		if i > 0 {
			text = fmt.Sprintf("(%.1f s) %s", e.at.Sub(all[i-1].done).Seconds(), text)
		}
		list = append(list, text)
	}
	return list
}
