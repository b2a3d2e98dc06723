// What clients make of errors.
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

// errors runs a client into what can go wrong.
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

// final are the refusals that no client may try again: the application learns of them at once.
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
			if says, ok := c.tells[test.status]; ok {
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

// arrives lets an identity arrive when the client has been told once that it has not.
func (w *stage) arrives(t *testing.T, c *sdk, name string, status int) {
	id := own(name, c)
	w.passing(t, c, c.pod, id, status, 20*time.Second, func() {
		w.assign(t, c, identityOf(name+"-"+plain(c.name), v1.UserAssignedMSI), v1.AzureAssignedIdentityStatus{Status: v1.StateAssigned})
	})
}

// trouble lets the metadata service fail for as long as the agent tries, and then once more for the
// client.
func (w *stage) trouble(t *testing.T, c *sdk) {
	id := own(sick, c)
	must(t, w.azure.World().SetFault(fault(id, byAgent(id), http.StatusServiceUnavailable, 0, 0)))
	w.passing(t, c, c.pod, id, http.StatusInternalServerError, 0, func() { w.azure.World().RemoveFault(id.ClientID) })
}

// once lets the metadata service answer once with a status, which an excepted pod gets to see as it
// is.
func (w *stage) once(t *testing.T, c *sdk, status int) {
	id := own(ill, c)
	must(t, w.azure.World().SetFault(fault(id, byItself(id), status, 0, 1)))
	w.passing(t, c, c.excepted, id, status, 0, func() {})
	w.azure.World().RemoveFault(id.ClientID)
}

// throttled lets the metadata service say 429 once. The agent sits out a pause of up to two seconds
// itself; longer ones are the client's.
func (w *stage) throttled(t *testing.T, c *sdk) {
	id, pause := own(busy, c), 3*time.Second
	must(t, w.azure.World().SetFault(fault(id, byAgent(id), http.StatusTooManyRequests, pause, 1)))
	w.passing(t, c, c.pod, id, http.StatusTooManyRequests, pause, func() {})
	w.azure.World().RemoveFault(id.ClientID)
}

// byAgent and byItself match the query for an identity's token of the agent, which asks by resource
// ID, and of an excepted pod, which asks as it likes.
func byAgent(id world.Identity) string {
	return "*msi_res_id=" + url.QueryEscape(id.ResourceID) + "*vault*"
}

func byItself(id world.Identity) string { return "*client_id=" + id.ClientID + "*vault*" }

// fault disturbs the token requests with such a query at the metadata service.
func fault(id world.Identity, query string, status int, retryAfter time.Duration, count int) world.Fault {
	return world.Fault{
		Name: id.ClientID, Surface: world.SurfaceIMDS, Query: query,
		Status: status, RetryAfter: int(retryAfter / time.Second), Count: count,
	}
}

// retryAfter is the agent with set-retry-after-header, which answers 503 to who comes early.
func (w *stage) retryAfter(t *testing.T, c *sdk) {
	w.arrives(t, c, later, http.StatusServiceUnavailable)
}

// passing runs the client into a status that passes: when it was seen, passed is called. The client
// recovers, or gives up at once if that is how it is. With 429 and 503 it was told to come back
// after pause.
func (w *stage) passing(t *testing.T, c *sdk, p *pod, id world.Identity, status int, pause time.Duration, passed func()) {
	t.Helper()
	var got heard
	var all []exchange
	saw := false
	for range tries {
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
	case c.gives[status] && got.failure == "":
		t.Errorf("it recovered from %d (%v); it did not before: note it in docs/clients.md", status, statuses(all))
	case c.gives[status] && len(all) != 1:
		t.Errorf("it gave up after %v, want after the first %d", statuses(all), status)
	case !c.gives[status] && got.failure != "":
		t.Errorf("it did not recover from %d: %v %s", status, statuses(all), got.failure)
	case len(all) > 1 && c.honours[status] && all[1].at.Sub(all[0].done) < pause/2: // when it was seen is not exact
		t.Errorf("it was told to come back after %s: %v", pause, statuses(all))
	case got.failure == "":
		claims := w.verified(t, got.Token)
		if appid, _ := claims["appid"].(string); appid != id.ClientID {
			t.Errorf("the token is for %s, want %s", appid, id.ClientID)
		}
	}
}

// until runs the client and calls passed as soon as it was answered with the status.
func (w *stage) until(t *testing.T, c *sdk, p *pod, id world.Identity, status int, passed func()) (h heard, saw bool) {
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

// tokenRequests leaves the probes out.
func tokenRequests(all []exchange) []exchange {
	var tokens []exchange
	for _, e := range all {
		if strings.Contains(strings.ToLower(e.head), "\nmetadata: true") {
			tokens = append(tokens, e)
		}
	}
	return tokens
}

// statuses are the answers, with the time between them.
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
