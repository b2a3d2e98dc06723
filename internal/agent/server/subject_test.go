package server

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/reason"
)

// TestClientIDOfAnother: an AzureIdentity has a resource ID of its author and the client ID of
// another identity on the node. The pod must get no token, and must not learn what the token would
// be for.
func TestClientIDOfAnother(t *testing.T) {
	l := newAuditLog(audit.All)
	w := newWorld(t, func(s *settings) { s.server.Audit = l.Log })
	w.assign("web", "10.9.0.2", "own")
	w.imds.has("victim")
	evil := newIdentity("own")
	evil.Spec.ClientID = clientID("victim")
	w.authorize.SetIdentity(evil)
	web := w.listen("10.9.0.2")
	for _, query := range []string{tokenQuery(arm), tokenQuery(arm, "client_id="+clientID("victim")), tokenQuery(arm, "msi_res_id="+resourceID("own"))} {
		got := w.get(web, query)
		if got.status != 403 || !strings.Contains(got.body, "spec.clientID and spec.resourceID must be those of one identity") ||
			strings.Contains(got.body, "access_token") || strings.Contains(got.body, clientID("own")) {
			t.Errorf("got %d %s", got.status, got.body)
		}
	}
	seen := w.imds.seen()
	for _, r := range seen {
		if q := r.URL.Query(); q.Get("msi_res_id") != resourceID("own") || q.Has("client_id") {
			t.Errorf("the service was asked for %s", r.URL.RawQuery)
		}
	}
	if len(seen) != 1 {
		t.Errorf("the service was asked %d times: the refusal is not remembered", len(seen))
	}
	lines, _ := l.lines(t)
	for _, line := range lines {
		if line.Decision != "refused" || line.Reason != reason.OtherIdentity.Name() {
			t.Errorf("audit line %+v", line)
		}
	}
	if len(lines) != 3 {
		t.Errorf("%d audit lines, want 3", len(lines))
	}
}
