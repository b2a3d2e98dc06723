package control_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/control"
	"github.com/podid-io/podid/internal/emulator/world"
)

func newClient(t *testing.T) (*world.World, *control.Client, string) {
	t.Helper()
	w, err := world.New(world.Default("s3cret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(control.NewServer(w))
	t.Cleanup(s.Close)
	return w, control.NewClient(s.URL), s.URL
}

// TestClient is a typical use of the emulator by a test.
func TestClient(t *testing.T) {
	w, c, _ := newClient(t)
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(c.SetSettings(ctx, map[string]any{"arm": map[string]any{"updateDuration": "40s"}}))
	want := world.Default("").Settings
	want.ARM.UpdateDuration = world.Duration(40 * time.Second)
	if diff := cmp.Diff(want, w.Settings()); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}

	doc, err := c.World(ctx, false)
	check(err)
	if strings.Contains(doc.Applications[0].Secret, "s3cret") {
		t.Error("the secret was not masked")
	}
	doc, err = c.World(ctx, true)
	check(err)
	if doc.Applications[0].Secret != "s3cret" {
		t.Errorf("the secret is %q", doc.Applications[0].Secret)
	}

	fresh := doc.Identities[0]
	fresh.ResourceID, fresh.ClientID = fresh.ResourceID+"-2", world.GUID("2")
	check(c.PutIdentity(ctx, fresh))
	doc.ScaleSets[0].Identities = []string{fresh.ResourceID}
	check(c.PutScaleSet(ctx, doc.ScaleSets[0]))
	machines, err := c.Machines(ctx, "VMSS-0")
	check(err)
	if len(machines) != 1 || !cmp.Equal(machines[0].OnIMDS, []string{fresh.ResourceID}) {
		t.Errorf("machines %+v", machines)
	}
	check(c.PutVM(ctx, world.Machine{Name: "vm-1", ResourceGroup: "demo", Addresses: []string{"10.0.0.9"}}))
	check(c.DeleteIdentity(ctx, strings.ToUpper(fresh.ResourceID)))
	if err := c.DeleteIdentity(ctx, fresh.ResourceID); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("deleted twice: %v", err)
	}

	check(c.SetFault(ctx, world.Fault{Name: "f", Status: 500}))
	if _, _, hit := w.TakeFault("arm", "GET", "/", ""); !hit {
		t.Error("the fault is not in force")
	}
	check(c.RemoveFault(ctx, "f"))
	if err := c.RemoveFault(ctx, "f"); err == nil {
		t.Error("removed twice")
	}

	go w.Log().Add(world.Request{Surface: "imds", Status: 200})
	requests, err := c.Requests(ctx, world.Filter{Surface: "imds", Status: 200}, time.Minute)
	check(err)
	if len(requests) != 1 {
		t.Errorf("requests %v", requests)
	}
	check(c.Reset(ctx))
	if machines, _ := c.Machines(ctx, ""); len(machines) != 2 || len(machines[1].Identities) != 0 {
		t.Errorf("after the reset: %+v", machines)
	}
	check(c.SetWorld(ctx, doc))
}

func TestBadRequests(t *testing.T) {
	_, _, base := newClient(t)
	tests := []struct {
		name, method, target, body string
		header                     string // Origin
		status                     int
		want                       string
	}{
		{"unknown path", "GET", "/v2/world", "", "", 404, ""},
		{"unknown field", "PUT", "/v1/faults", `{"nam": "x"}`, "", 400, "unknown field"},
		{"no fault", "PUT", "/v1/faults", `{"name": "x"}`, "", 400, "does nothing"},
		{"no world", "PUT", "/v1/world", `tenants: []`, "", 400, "name at least one"},
		{"unknown setting", "PATCH", "/v1/settings", `{"speed": 1}`, "", 400, "unknown field"},
		{"bad identity", "PUT", "/v1/identities", `{"resourceID": "x"}`, "", 400, "expected /subscriptions/"},
		{"status", "GET", "/v1/requests?status=x", "", "", 400, "expected a number"},
		{"after", "GET", "/v1/requests?after=-1", "", "", 400, "expected a number"},
		{"long wait", "GET", "/v1/requests?wait=2h", "", "", 400, "at most 1m0s"},
		{"web page", "POST", "/v1/reset", "", "https://evil.example", 403, "web pages"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), test.method, base+test.target, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if test.header != "" {
				r.Header.Set("Origin", test.header)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != test.status || !strings.Contains(string(body), test.want) {
				t.Errorf("%s %s", answer.Status, body)
			}
		})
	}
}

// TestRecreate: the recreated identity has the same name and other IDs.
func TestRecreate(t *testing.T) {
	w, c, _ := newClient(t)
	before := w.Identities(world.DefaultSubscription, "")[0]
	fresh, err := c.RecreateIdentity(t.Context(), strings.ToUpper(before.ResourceID))
	after := w.Identities(world.DefaultSubscription, "")[0]
	if err != nil || after.ClientID != fresh.ClientID || after.PrincipalID != fresh.PrincipalID || after.ResourceID != before.ResourceID ||
		before.ClientID == fresh.ClientID || before.PrincipalID == fresh.PrincipalID {
		t.Errorf("%+v became %+v, told %+v, %v", before, after, fresh, err)
	}
	if _, err := c.RecreateIdentity(t.Context(), "/nothing"); err == nil {
		t.Error("an identity that is not there: no error")
	}
}

// TestRebinding: requests of a page whose own host name resolves to this machine are refused.
func TestRebinding(t *testing.T) {
	_, _, base := newClient(t)
	for host, want := range map[string]int{"evil.example": 403, "localhost:1": 200, "127.0.0.1": 200, "[::1]:8": 200} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/v1/faults", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("host %s: %s", host, answer.Status)
		}
	}
}
