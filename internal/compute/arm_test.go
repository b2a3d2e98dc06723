// A small ARM for the tests of this package. It validates requests as the real one does.

package compute

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
)

// armServer keeps node groups by lower-case resource ID.
type armServer struct {
	t *testing.T

	mu       sync.Mutex
	groups   map[string]*armGroup
	known    map[string]int // generation of each identity that exists, by lower-case ID
	made     int
	duration time.Duration
	pollHint int // Retry-After on polls of a running operation, seconds
	failures []answer
	outcome  string // error of the next operation's end, empty for success
	stale    bool   // groups show the IDs of deleted identities
	strict   bool   // groups with a deleted identity refuse every change
	hides    bool   // groups show the previous state until the operation is over
	requests []request
}

// armGroup is one resource.
type armGroup struct {
	kind  string
	ids   map[string]int // generation of each identity when it was attached
	etag  int
	until time.Time // when the running operation ends
	goal  *armGroup // its target state
	end   func()
	// failed is the error of the last operation.
	failed string
}

// request is a request that the server got.
type request struct{ Method, Path, Body, IfMatch, Version string }

// answer is a prepared error response to the next request with that method (or whose path contains
// match). It applies to the next times requests if that is set, or to all if it is negative.
type answer struct {
	method, match string
	status        int // refused: the connection is refused; hangs: no response until the client disconnects
	header        map[string]string
	body          string
	times         int
}

const (
	refused = -1
	hangs   = -2
)

func newARM(t *testing.T) *armServer {
	return &armServer{t: t, groups: map[string]*armGroup{}, known: map[string]int{}}
}

// Do implements policy.Transporter without a network, so that it works in a synctest bubble.
func (s *armServer) Do(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	func() {
		defer func() { _ = recover() }() // http.ErrAbortHandler
		s.ServeHTTP(w, req)
	}()
	switch {
	case req.Context().Err() != nil:
		return nil, req.Context().Err()
	case w.Code == statusAborted:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

// statusAborted marks a connection without a response for Do.
const statusAborted = 999

// disturb sends the prepared response.
func (s *armServer) disturb(w http.ResponseWriter, r *http.Request, a answer) {
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	switch a.status {
	case hangs:
		<-r.Context().Done()
		fallthrough
	case refused:
		if recorder, ok := w.(*httptest.ResponseRecorder); ok {
			recorder.Code = statusAborted
		}
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.body))
	}
}

// prepared returns the prepared response to the request, once.
func (s *armServer) prepared(r *http.Request) (answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.failures {
		if a.method != r.Method || !strings.Contains(r.URL.Path, a.match) {
			continue
		}
		switch {
		case a.times > 1:
			s.failures[i].times--
		case a.times >= 0:
			s.failures = slices.Delete(s.failures, i, i+1)
		}
		return a, true
	}
	return answer{}, false
}

// transporter is the method set of policy.Transporter.
type transporter interface {
	Do(req *http.Request) (*http.Response, error)
}

// client returns a Client that reaches the server through transport.
func (s *armServer) client(endpoint string, transport transporter, observe Observer) *Client {
	s.t.Helper()
	return newClient(s.t, endpoint, transport, observe)
}

func newClient(t *testing.T, endpoint string, transport transporter, observe Observer) *Client {
	t.Helper()
	c, err := New(Options{
		Credential: &fake.TokenCredential{}, Transport: transport, Observe: observe,
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: "https://login.example/",
			Services:                     map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: endpoint, Audience: "https://arm.example/"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *armServer) note(r request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
}

func (s *armServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	s.note(request{r.Method, strings.ToLower(r.URL.Path), string(body), r.Header.Get("If-Match"), r.URL.Query().Get("api-version")})
	if a, ok := s.prepared(r); ok {
		s.disturb(w, r, a)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		refuseARM(w, http.StatusUnauthorized, "AuthenticationFailed", "no token")
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, "/operations/"); ok {
		s.poll(w, id)
		return
	}
	id := strings.ToLower(r.URL.Path)
	if generation := s.known[id]; generation > 0 {
		_, _ = fmt.Fprintf(w, `{"properties":{"clientId":"c%d"}}`, generation)
		return
	}
	group, ok := s.groups[id]
	if !ok {
		refuseARM(w, http.StatusNotFound, "ResourceNotFound", "The Resource '"+id+"' was not found.")
		return
	}
	if r.Method == http.MethodPatch {
		s.patch(w, r, id, group, string(body))
		return
	}
	s.settle(group)
	s.writeGroup(w, http.StatusOK, group)
}

// settle applies an operation that is due.
func (s *armServer) settle(g *armGroup) {
	if g.end == nil || time.Now().Before(g.until) {
		return
	}
	if s.outcome == "" {
		g.end()
	}
	g.end, g.failed, s.outcome = nil, s.outcome, ""
}

func (s *armServer) patch(w http.ResponseWriter, r *http.Request, id string, g *armGroup, body string) {
	s.settle(g)
	var update struct {
		Identity struct {
			Type string                     `json:"type"`
			IDs  map[string]json.RawMessage `json:"userAssignedIdentities"`
		} `json:"identity"`
	}
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&update); err != nil {
		refuseARM(w, http.StatusBadRequest, "InvalidRequestContent", err.Error())
		return
	}
	switch match := r.Header.Get("If-Match"); {
	case match != "" && match != etagOf(g):
		refuseARM(w, http.StatusPreconditionFailed, "PreconditionFailed", "The ETag does not match.")
		return
	case g.end != nil:
		refuseARM(w, http.StatusConflict, "Conflict", "Another operation on "+id+" is in progress.")
		return
	case !strings.Contains(update.Identity.Type, "UserAssigned") && update.Identity.IDs != nil:
		refuseARM(w, http.StatusBadRequest, "InvalidParameter", "identities are not allowed with type "+update.Identity.Type)
		return
	}
	ids := map[string]int{}
	if strings.Contains(update.Identity.Type, "UserAssigned") {
		maps.Copy(ids, g.ids)
	}
	for key, value := range update.Identity.IDs {
		listed := ""
		for have := range g.ids {
			if strings.EqualFold(have, key) {
				listed = have
			}
		}
		if listed != "" && string(value) != "null" {
			continue // Azure does not attach a listed identity again
		}
		delete(ids, listed)
		if string(value) == "null" {
			continue
		}
		if s.known[strings.ToLower(key)] == 0 {
			refuseARM(w, http.StatusBadRequest, "FailedIdentityOperation", "Identity operation for '"+id+"' failed: Resource '"+key+"' was not found.")
			return
		}
		ids[key] = s.known[strings.ToLower(key)]
	}
	for id := range ids {
		if s.strict && s.known[strings.ToLower(id)] == 0 {
			refuseARM(w, http.StatusBadRequest, "FailedIdentityOperation", "Identity operation for '"+r.URL.Path+"' failed: Resource '"+id+"' was not found.")
			return
		}
	}
	end := func() { g.kind, g.ids, g.etag = update.Identity.Type, ids, g.etag+1 }
	if s.duration == 0 && s.outcome == "" {
		end()
		s.writeGroup(w, http.StatusOK, g)
		return
	}
	g.goal = &armGroup{kind: update.Identity.Type, ids: ids}
	g.until, g.end, g.etag, g.failed = time.Now().Add(s.duration), end, g.etag+1, ""
	w.Header().Set("Azure-AsyncOperation", "https://"+r.Host+"/operations/"+strconv.Quote(id)+"?api-version=2016-01-01&s=signed%2Bpart&t=1")
	s.writeGroup(w, http.StatusOK, g)
}

func (s *armServer) poll(w http.ResponseWriter, quoted string) {
	id, _ := strconv.Unquote(quoted)
	g := s.groups[id]
	switch {
	case time.Now().Before(g.until):
		if s.pollHint > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(s.pollHint))
		}
		_, _ = w.Write([]byte(`{"status":"InProgress"}`))
	default:
		if s.settle(g); g.failed != "" {
			_, _ = fmt.Fprintf(w, `{"status":"Failed","error":%s}`, g.failed)
			return
		}
		_, _ = w.Write([]byte(`{"status":"Succeeded"}`))
	}
}

func etagOf(g *armGroup) string { return `"` + strconv.Itoa(g.etag) + `"` }

func (s *armServer) writeGroup(w http.ResponseWriter, status int, g *armGroup) {
	state := "Succeeded"
	etag := etagOf(g)
	if g.end != nil {
		state = "Updating"
		if !s.hides {
			g = g.goal
		}
	}
	ids := map[string]any{}
	for id, generation := range g.ids {
		ids[id] = map[string]any{"clientId": nil, "principalId": nil}
		if s.stale || s.known[strings.ToLower(id)] == generation {
			ids[id] = map[string]string{"clientId": fmt.Sprint("c", generation), "principalId": fmt.Sprint("p", generation)}
		}
	}
	resource := map[string]any{"etag": etag, "location": "here", "properties": map[string]string{"provisioningState": state}}
	if g.kind != "None" && g.kind != "" {
		resource["identity"] = map[string]any{"type": g.kind, "userAssignedIdentities": ids}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(resource)
}

func refuseARM(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": message}})
}

var _ azcore.TokenCredential = (*fake.TokenCredential)(nil)
