package server

import (
	"regexp"
	"strings"
	"testing"
)

func TestHostToken(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", "10.9.0.2", "one")
	local, foreign := w.listenHost("127.0.0.1"), w.listenHost("10.9.0.2")
	pod := []string{"podname: web", "podns: shop"}
	tests := []struct {
		name, address, target string
		headers               []string
		status                int
		says                  string
	}{
		{"token", local, "/host/token?resource=r", pod, 200, `"clientid":"` + clientID("one") + `"`},
		{"by client id", local, "/host/token/?resource=r&client_id=" + clientID("one"), pod, 200, `"token":{"access_token"`},
		{"wrong client id", local, "/host/token?resource=r&client_id=x", pod, 400, "Identity not found"},
		{"no pod named", local, "/host/token?resource=r", nil, 400, "podname"},
		{"no resource", local, "/host/token", pod, 400, "resource"},
		{"no such pod", local, "/host/token?resource=r", []string{"podname: other", "podns: shop"}, 500, "does not know the pod"},
		{"not from the host", foreign, "/host/token?resource=r", pod, 403, "loopback"},
		{"token path", local, tokenQuery("r"), pod, 404, ""},
		{"passed on", local, "/metadata/instance?api-version=1", pod, 404, ""},
		{"probe", local, "/healthz", nil, 200, "Active"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := w.get(tt.address, tt.target, tt.headers...)
			if got.status != tt.status || !strings.Contains(got.body, tt.says) {
				t.Errorf("got %d %s, want %d and %q", got.status, got.body, tt.status, tt.says)
			}
		})
	}
	// The form of v1.8.17: these fields in this order, all of them strings.
	got := w.get(local, "/host/token?resource=r", pod...)
	form := regexp.MustCompile(`^{"token":{"access_token":"[^"]+","refresh_token":"","expires_in":"\d+","expires_on":"\d+",` +
		`"not_before":"\d+","resource":"r","token_type":"Bearer"},"clientid":"` + clientID("one") + `"}$`)
	if !form.MatchString(got.body) {
		t.Errorf("got %s", got.body)
	}
}

func TestHostTokenOf(t *testing.T) {
	for _, tt := range []struct{ name, body, token, problem string }{
		{"one", `{"access_token":"a"}`, "a", ""},
		{"several tenants", `[{"access_token":"a"},{"access_token":"b"}]`, "a", ""},
		{"none", `[]`, "", "no first entry"},
		{"not JSON", `{"access_token":"secret`, "", "fields of a token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := hostTokenOf([]byte(tt.body))
			if got.AccessToken != tt.token || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("got %q, %v", got.AccessToken, err)
			}
		})
	}
}
