package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/imds/imdstest"
)

// wire records the requests to the real service as they would be on the wire.
type wire struct {
	mu   sync.Mutex
	left []string
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.left = append(w.left, b.String())
	w.mu.Unlock()
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

func (w *wire) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.left
	w.left = nil
	return left
}

// unlimited is a limiter that refuses nothing, even after the client disconnected, so that each
// request reaches the judge.
type unlimited struct{}

func (unlimited) Acquire(context.Context, string) (func(), error) { return func() {}, nil }
func (unlimited) StayAway(time.Duration)                          {}

// judged is an agent whose requests to the real service are checked.
type judged struct {
	wire     *wire
	mallory  string // address of the listener for a pod without an identity
	excepted string // for a pod that is excepted
}

func newJudged(t testing.TB) *judged {
	w := newWorld(t, func(s *settings) { s.server.AttestLimit = 10 * time.Millisecond })
	j := &judged{wire: &wire{}}
	w.server.upstream.client = &http.Client{Transport: j.wire}
	w.server.cfg.OtherLimiter, w.server.cfg.TokenLimiter = unlimited{}, unlimited{}
	// Bad requests must not be delayed here.
	close(w.stopping)
	w.pod("mallory", "10.9.0.2", noLabel)
	w.pod("excepted", "10.9.0.3")
	w.except("excepted")
	j.mallory, j.excepted = w.listen("10.9.0.2"), w.listen("10.9.0.3")
	return j
}

// send sends bytes on a new connection. It returns the answer and the requests that left the agent.
func (j *judged) send(t *testing.T, address string, request []byte) (answer string, left []string) {
	j.wire.take()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	// The agent may answer before it has read everything.
	_, _ = c.Write(request)
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	body, err := io.ReadAll(c)
	if os.IsTimeout(err) {
		t.Fatalf("no end of the answer to %q", request)
	}
	return string(body), j.wire.take()
}

// ours matches all requests that the agent may make.
var ours = regexp.MustCompile(`^GET (/metadata/[A-Za-z0-9/_-]+)(\?\S*)? HTTP/1\.1\r\n((Host|User-Agent|Metadata|Accept|X-Ms-Client-Request-Id|Return-Client-Request-Id): [^\r\n]*\r\n)+\r\n$`)

// judge checks a request that left the agent.
func (j *judged) judge(t *testing.T, request []byte, left string, isExcepted bool) {
	t.Helper()
	parts := ours.FindStringSubmatch(left)
	if parts == nil {
		t.Fatalf("%q left as %q", request, left)
	}
	path, query := parts[1], parts[2]
	values, err := url.ParseQuery(strings.TrimPrefix(query, "?"))
	if err != nil {
		t.Fatalf("%q left with the query %q: %v", request, query, err)
	}
	for name, v := range values {
		if len(v) > 1 {
			t.Fatalf("%q left with %s %d times", request, name, len(v))
		}
	}
	if isExcepted && path == imds.TokenPath {
		return // excepted pods may do that
	}
	if imdstest.ReadsAsIdentity(path + query) {
		t.Fatalf("%q left as %q, which can be read as a path under /metadata/identity", request, left)
	}
}

// targets returns the request targets that a careless reader could find in raw bytes: all words but
// the first of every line that could be a request line.
func targets(request []byte) []string {
	var targets []string
	for line := range strings.FieldsFuncSeq(string(request), func(r rune) bool { return r == '\r' || r == '\n' }) {
		if strings.Contains(line, "HTTP/") {
			if _, rest, ok := strings.Cut(line, " "); ok {
				if i := strings.LastIndex(rest, " HTTP/"); i >= 0 {
					rest = rest[:i]
				}
				targets = append(targets, rest)
			}
		}
	}
	return targets
}

// FuzzRawRequest sends bytes as a pod could to the real HTTP server, and checks what leaves the
// agent for the metadata service: nothing may be read as a request for a token or a credential of
// the node.
//
// fuzz.sh: slow
func FuzzRawRequest(f *testing.F) {
	for _, seed := range rawSeeds() {
		f.Add([]byte(seed))
	}
	j := newJudged(f)
	f.Fuzz(func(t *testing.T, request []byte) {
		if len(request) > 64<<10 {
			return
		}
		for _, address := range []string{j.mallory, j.excepted} {
			answer, left := j.send(t, address, request)
			for _, l := range left {
				j.judge(t, request, l, address == j.excepted)
			}
			if strings.Contains(answer, "access_token") {
				t.Fatalf("%q was answered with a token: %q", request, answer)
			}
			// A request for the identity's path, however it is read, is not passed on.
			targets := targets(request)
			if address == j.mallory && len(targets) == 1 && len(left) > 0 && imdstest.ReadsAsIdentity(targets[0]) {
				t.Fatalf("%q left as %q", request, left)
			}
		}
	})
}

// rawSeeds returns the seeds of the fuzzing.
func rawSeeds() []string {
	const tail = " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"
	const q = "?api-version=2018-02-01&resource=r"
	seeds := []string{
		"GET /metadata/instance?api-version=2021-02-01" + tail,
		"GET " + imds.TokenPath + q + tail,
		"GET " + imds.TokenPath + q + "&client_id=x&bypass_cache=true&x=%26y%3d/../" + tail,
		"GET /metadata/instance?x=/../../identity/oauth2/token" + tail,
		"GET /metadata/instance?api-version=1&api-version=2" + tail,
		"GET http://169.254.169.254/metadata/identity/info" + q + tail,
		"POST /metadata/scheduledevents?api-version=2020-07-01" + tail,
		"GET /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nX-HTTP-Method-Override: POST\r\nContent-Length: 4\r\n\r\nabcd",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metadata/identity/info" + tail,
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nConnection: Metadata, X-Forwarded-For\r\nUpgrade: h2c\r\nUser-Agent: a\x00b\r\n\r\n",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nx-forwarded-for: 1.2.3.4\r\n\r\n",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nMetadata: true\r\nX-Forwarded-For:\r\n\r\n",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\n Metadata: true\r\nUser-Agent: x\r\n y\r\n\r\n",
		"GET /metadata/instance HTTP/1.0\r\nMetadata: TRUE\r\n\r\n",
		"GET /metadata/versions" + tail + "GET /metadata/identity/info" + tail,
		"CONNECT 169.254.169.254:80" + tail,
		"OPTIONS *" + tail,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /metadata/instance\tHTTP/1.1\nMetadata: true\n\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	}
	for _, path := range spellings() {
		seeds = append(seeds, "GET "+path+q+tail)
	}
	return seeds
}

// TestRawOracle: the judge detects violations.
func TestRawOracle(t *testing.T) {
	for _, left := range []string{
		"POST /metadata/scheduledevents HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: x\r\n\r\n",
		"GET /metadata/instance HTTP/1.1\r\nHost: x\r\n\r\nGET /metadata/identity/info HTTP/1.1\r\n\r\n",
		"GET /metadata/instance/..%2fidentity HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		if ours.MatchString(left) {
			t.Errorf("%q passes for the agent's own", left)
		}
	}
	j := newJudged(t)
	_, left := j.send(t, j.mallory, []byte("GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: x\r\nMetadata: True\r\n\r\n"))
	if len(left) != 1 || !strings.HasPrefix(left[0], "GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\n") {
		t.Errorf("a plain request left as %q", left)
	}
	_, left = j.send(t, j.excepted, []byte("GET "+tokenQuery("r", "x=%2f..%26y%3d1")+" HTTP/1.1\r\nHost: x\r\nMetadata: True\r\n\r\n"))
	if want := "GET " + imds.TokenPath + "?api-version=2018-02-01&resource=r&x=%2F..%26y%3D1 HTTP/1.1\r\n"; len(left) != 1 || !strings.HasPrefix(left[0], want) {
		t.Errorf("an excepted pod's request left as %q, want %q", left, want)
	}
	if targets := targets([]byte("GET /a b HTTP/1.1\r\nX: HTTP/1.1 y\r\n\r\n")); !slices.Contains(targets, "/a b") {
		t.Errorf("targets %q", targets)
	}
}
