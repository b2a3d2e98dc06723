package server

import (
	"encoding/json"
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
	got := w.get(local, "/host/token?resource=r", pod...)
	var body struct {
		Token struct {
			ExpiresIn json.Number `json:"expires_in"`
			Resource  string      `json:"resource"`
		} `json:"token"`
	}
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || body.Token.Resource != "r" || strings.Contains(got.body, `"expires_in":"`) {
		t.Errorf("%v: %s", err, got.body)
	}
}
