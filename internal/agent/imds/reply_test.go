package imds

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/reason"
)

func TestReply(t *testing.T) {
	now := time.Unix(1605152024, 0)
	expires := now.Add(24 * time.Hour)
	source := `{
		"access_token": "a.b.c", "client_id": "their-id", "expires_in": "86400", "expires_on": 1605238424,
		"ext_expires_in": "90000", "not_before": "1605152024", "resource": "https://normalised/",
		"token_type": "Bearer", "msi_res_id": "/subscriptions/<x>&y", "number": 7, "flag": true, "none": null, "list": [ 1, 2 ]
	}`
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(source), &fields); err != nil {
		t.Fatal(err)
	}
	r, err := NewReply(fields, "https://as asked/\"", "our-id", now, expires, now.Add(25*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	got := string(r.Append(nil, now.Add(time.Hour)))
	want := `{"access_token":"a.b.c","client_id":"their-id","expires_in":"82800","expires_on":"1605238424","ext_expires_in":"86400",` +
		`"not_before":"1605152024","refresh_token":"","resource":"https://as asked/\"","token_type":"Bearer",` +
		`"flag":"true","list":[1,2],"msi_res_id":"/subscriptions/<x>&y","none":"","number":"7"}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if late := string(r.Append(nil, expires.Add(time.Hour))); !strings.Contains(late, `"expires_in":"0"`) {
		t.Errorf("expired: %s", late)
	}
}

func TestReplyMinimal(t *testing.T) {
	fields := map[string]json.RawMessage{"access_token": []byte(`"a.b.c"`)}
	now := time.Unix(1000, 0)
	r, err := NewReply(fields, "r", "our-id", now, now.Add(time.Minute), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"access_token":"a.b.c","client_id":"our-id","expires_in":"60","expires_on":"1060","ext_expires_in":"60",` +
		`"not_before":"1000","refresh_token":"","resource":"r","token_type":"Bearer"}`
	if diff := cmp.Diff(want, string(r.Append(nil, now))); diff != "" {
		t.Error(diff)
	}
	for _, token := range []string{`""`, `null`} {
		fields["access_token"] = []byte(token)
		if _, err := NewReply(fields, "r", "", now, now, now); err == nil {
			t.Errorf("access_token %s: accepted", token)
		}
	}
}

func TestWriteRefusal(t *testing.T) {
	tests := []struct {
		name    string
		refusal *reason.Refusal
		empty   bool
		status  int
		body    string
		retry   string
	}{
		{"probe", HeaderMissing(), false, 400, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`, ""},
		{"no identity", reason.NoMatch.Refuse("Identity not found"), false, 400, `{"error":"invalid_request","error_description":"Identity not found"}`, ""},
		{
			"forbidden", reason.SecretForbidden.Refuse("vault is Unreachable"), false,
			403, `{"error":"secret_forbidden","error_description":"vault is not reachable (PID-532)"}`, "",
		},
		{
			"throttled", reason.Busy.Refuse("<busy>").After(1500 * time.Millisecond), false,
			429, `{"error":"too_many_requests","error_description":"<busy> (PID-605)"}`, "2",
		},
		{"empty", reason.InstanceBlocked.Refuse("y"), true, 403, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			WriteRefusal(w, tt.refusal, tt.empty)
			if w.Code != tt.status || w.Body.String() != tt.body || w.Header().Get("Retry-After") != tt.retry {
				t.Errorf("got %d %s, Retry-After %q", w.Code, w.Body, w.Header().Get("Retry-After"))
			}
			if tt.body != "" && w.Header().Get("Content-Type") != ContentType {
				t.Errorf("content type %q", w.Header().Get("Content-Type"))
			}
		})
	}
}
