package server

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestUserData requests the machine's user data: by its path in every spelling, and in its parents,
// as JSON and as text.
func TestUserData(t *testing.T) {
	const secret, text, list = "c2VjcmV0LWpvaW4tdG9rZW4=", "text/plain; charset=utf-8", "application/json; charset=utf-8"
	service := func(w http.ResponseWriter, r *http.Request) bool {
		kind, body := list, ""
		plain := r.URL.Query().Get("format") == "text"
		switch path := strings.ToLower(strings.TrimRight(r.URL.Path, "/")); {
		case strings.HasPrefix(path, "/metadata/instance/compute/userdata"), strings.HasPrefix(path, "/metadata/instance/compute/customdata"):
			kind, body = text, secret
		case path == "/metadata/instance/compute" && plain:
			kind, body = text, "azEnvironment\ncustomData\nuserData\nvmId"
		case path == "/metadata/instance/compute":
			body = `{"customData":"` + secret + `","userData":"` + secret + `","vmId":"v1"}`
		case path == "/metadata/instance" && plain:
			kind, body = text, "compute/\nnetwork/"
		case path == "/metadata/instance":
			body = `{"compute":{"userData":"` + secret + `","vmId":"v1"},"network":{}}`
		case path == "/metadata/instance/network":
			body = `{"interface":[{"userData":"` + secret // cut off
		case path == "/metadata/instance/compute/vmid":
			kind, body = text, "v1"
		}
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, body)
		return true
	}
	const version = "?api-version=2021-02-01"
	for _, c := range []struct {
		target         string
		status         int
		says           string // in the answer if it is blocked
		open           int    // status with block-user-data=false
		secretWhenOpen bool
	}{
		{"/metadata/instance/compute/userData" + version + "&format=text", 403, "block-user-data", 200, true},
		{"/metadata/instance/compute/userData/" + version, 403, "block-user-data", 200, true},
		{"/Metadata/INSTANCE/Compute/USERDATA" + version, 403, "block-user-data", 200, true},
		{"/metadata/instance/compute/customData" + version, 403, "block-user-data", 200, true},
		{"/metadata/instance/compute/userData/0" + version, 403, "block-user-data", 200, true},
		{"/metadata/instance/compute/user%44ata" + version, 404, "", 404, false},
		{"/metadata/instance/compute//userData" + version, 404, "", 404, false},
		{"/metadata/instance/compute/./userData" + version, 404, "", 404, false},
		{"/metadata/instance" + version, 200, `{"compute":{"vmId":"v1"},"network":{}}`, 200, true},
		{"/metadata/instance/" + version, 200, `{"compute":{"vmId":"v1"},"network":{}}`, 200, true},
		{"/metadata/instance/compute" + version, 200, `{"vmId":"v1"}`, 200, true},
		{"/metadata/instance/COMPUTE" + version + "&format=json", 200, `{"vmId":"v1"}`, 200, true},
		{"/metadata/instance/compute" + version + "&format=text", 200, "vmId", 200, false},
		{"/metadata/instance" + version + "&format=text", 200, "compute/", 200, false},
		{"/metadata/instance/compute/vmId" + version + "&format=text", 200, "v1", 200, false},
		{"/metadata/instance/network" + version, 502, "try again", 200, true},
	} {
		t.Run(c.target, func(t *testing.T) {
			for _, allow := range []bool{false, true} {
				w := newWorld(t, func(s *settings) { s.server.AllowUserData = allow })
				w.imds.fall(service)
				got := w.get(w.listen("10.9.0.2"), c.target)
				leaked := strings.Contains(got.body, secret)
				switch {
				case allow && (got.status != c.open || leaked != c.secretWhenOpen):
					t.Errorf("allowed: got %d %s", got.status, got.body)
				case !allow && (got.status != c.status || leaked || !strings.Contains(got.body, c.says)):
					t.Errorf("blocked: got %d %s", got.status, got.body)
				}
			}
		})
	}
}
