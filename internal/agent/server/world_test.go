package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	tokenimds "github.com/podid-io/podid/internal/agent/token/imds"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
)

// world is an agent in one process: the real packages behind the real server, a fake metadata
// service, and connections that appear to come from pods.
type world struct {
	t         testing.TB
	imds      *fakeIMDS
	attest    *attest.Table
	authorize *authorize.Table
	server    *Server
	known     chan struct{}
	stopping  chan struct{}
}

// settings are the configuration, for tests to change.
type settings struct {
	server    Config
	authorize authorize.Config
	unknown   bool // the cluster is not known yet
	noIMDS    bool // no metadata service and no network
}

func newWorld(t testing.TB, change func(*settings)) *world {
	t.Helper()
	w := &world{t: t, known: make(chan struct{}), stopping: make(chan struct{})}
	s := settings{
		server: Config{HeaderRequired: true, HostTokenTCP: true, AttestLimit: 200 * time.Millisecond, MaxPending: 16, MaxPendingPerPod: 4},
		authorize: authorize.Config{
			Rules: identity.Rules{ForceNamespaced: true}, Standard: true, Node: "node-1",
			Types: []v1.IdentityType{v1.UserAssignedMSI}, ArrivalLimit: 300 * time.Millisecond, BindingLimit: 100 * time.Millisecond,
		},
	}
	if change != nil {
		change(&s)
	}
	w.imds = &fakeIMDS{identities: map[string]bool{}, life: 24 * time.Hour}
	if !s.noIMDS {
		w.imds.serve(t)
	}
	w.attest = attest.NewTable(attest.Config{MaxWaiting: 16, MaxPerSource: 4})
	w.authorize = authorize.NewTable(s.authorize)
	limiter := func() *fair.Limiter {
		return fair.New(fair.Config{Rate: 1000, Burst: 100, Concurrent: 5, PerCaller: 2, Waiting: 64, WaitingPerCaller: 8})
	}
	metrics := observe.NewMetrics(nil)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	tokenLimiter := limiter()
	s.server.Attester, s.server.Authorizer = w.attest, w.authorize
	s.server.Tokens = token.NewCache(ctx, token.CacheConfig{
		Source: source.ByType{v1.UserAssignedMSI: tokenimds.New(tokenimds.Config{
			Address: w.imds.address, Calls: source.Calls{Limiter: tokenLimiter, Meter: metrics, Operation: "test", UserAgent: "podid-test"},
		})},
		Render: func(t *token.Token, r token.Request) (token.Body, error) {
			return imds.NewReply(t.Fields, r.Resource, r.Identity.Spec.ClientID, t.NotBefore, t.ExpiresOn, t.ExtendedOn)
		},
		Max: 64, MaxPerIdentity: 16, FetchTimeout: 2 * time.Second, StaleAfter: 100 * time.Millisecond,
	})
	s.server.Known, s.server.Stopping = w.known, w.stopping
	s.server.Upstream, s.server.TokenLimiter, s.server.OtherLimiter = w.imds.address, tokenLimiter, limiter()
	s.server.Probes = (&observe.Health{}).Handler()
	s.server.Metrics, s.server.Log = metrics, quiet()
	w.server = New(s.server)
	if !s.unknown {
		close(w.known)
	}
	return w
}

// pod adds a live pod with the label app=name.
func (w *world) pod(name, ip string, more ...func(*corev1.Pod)) {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{v1.BindingLabel: name, "app": name}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, HostIP: "10.0.0.1"},
	}
	for _, change := range more {
		change(p)
	}
	w.authorize.SetPod(identity.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels})
	w.attest.Set(p)
}

func newIdentity(name string) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec:       v1.AzureIdentitySpec{ResourceID: resourceID(name), ClientID: clientID(name)},
	}
}

func resourceID(name string) string {
	return "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

// clientID and objectID are derived from the name, as in the fake.
func clientID(name string) string { return "c11e47-" + name }
func objectID(name string) string { return "0b1ec7-" + name }

// bind binds an identity to the pods of a name.
func (w *world) bind(pod, id string) {
	w.authorize.SetIdentity(newIdentity(id))
	w.authorize.SetBinding(&v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod + "-" + id},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: id, Selector: pod},
	})
}

// state sets the assigned identity of a pod.
func (w *world) state(pod, id, state, reason, message string) {
	w.authorize.SetAssigned(&v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod + "-shop-" + id},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: "shop", NodeName: "node-1",
			AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: id}, Spec: newIdentity(id).Spec},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: state, Reason: reason, Message: message},
	})
}

// assign adds a pod with an assigned identity.
func (w *world) assign(pod, ip, id string) {
	w.pod(pod, ip)
	w.bind(pod, id)
	w.state(pod, id, v1.StateAssigned, "", "")
	w.imds.has(id)
}

// listen serves the pods' listener, whose connections appear to come from ip.
func (w *world) listen(ip string) string { return w.serve(w.server.ServePod, ip) }

// listenHost serves the host's listener.
func (w *world) listenHost(ip string) string { return w.serve(w.server.ServeHost, ip) }

// listenHostSocket serves the host's Unix socket and returns an address that leads to it.
func (w *world) listenHostSocket() string {
	path := filepath.Join(w.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.run(connections.RootOnly(l, quiet()), w.server.ServeHostSocket)
	return unixScheme + path
}

// unixScheme precedes the path of a Unix socket in place of an address.
const unixScheme = "unix:"

func (w *world) serve(handler http.HandlerFunc, ip string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.run(pretend{l, netip.MustParseAddr(ip)}, handler)
	return l.Addr().String()
}

func (w *world) run(l net.Listener, handler http.HandlerFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- connections.Serve(ctx, l, attest.NewOrigins(), handler, connections.Limits{Total: 64, PerSource: 64}, quiet())
	}()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("serve: %v", err)
		}
	})
}

// pretend makes connections appear to come from an address.
type pretend struct {
	net.Listener
	from netip.Addr
}

func (p pretend) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	return pretendConn{c, p.from}, err
}

type pretendConn struct {
	net.Conn
	from netip.Addr
}

func (c pretendConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 40000))
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	body   string
	asked  string // the request's target and headers
}

// want expects a status, and texts in the body.
func (r reply) want(t testing.TB, status int, parts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("%s: got %d %.500s, want %d", r.asked, r.status, r.body, status)
	}
	for _, part := range parts {
		if !strings.Contains(r.body, part) {
			t.Errorf("%s: got %d %.500s, without %q", r.asked, r.status, r.body, part)
		}
	}
}

// get sends a GET for a path, with the Metadata header unless headers change it.
func (w *world) get(address, target string, headers ...string) reply {
	w.t.Helper()
	return w.do(context.Background(), http.MethodGet, address, target, headers...)
}

// asking sends what get sends, and returns a channel for the answer.
func (w *world) asking(address, target string, headers ...string) <-chan reply {
	answered := make(chan reply, 1)
	go func() { answered <- w.get(address, target, headers...) }()
	return answered
}

// held expects that a request is not answered within this time.
func (w *world) held(answered <-chan reply, within time.Duration) {
	w.t.Helper()
	select {
	case got := <-answered:
		w.t.Fatalf("too early: %d %s", got.status, got.body)
	case <-time.After(within):
	}
}

func (w *world) do(ctx context.Context, method, address, target string, headers ...string) reply {
	w.t.Helper()
	path, overUnix := strings.CutPrefix(address, unixScheme)
	if overUnix {
		address = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+"/", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	targetPath, query, _ := strings.Cut(target, "?")
	req.URL = &url.URL{Scheme: "http", Host: address, Opaque: targetPath, RawQuery: query}
	req.Header.Set("Metadata", "true")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Del(name)
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	c := client(w.t)
	if overUnix {
		c = unixClient(w.t, path)
	}
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body), fmt.Sprint(target, headers)}
}

func client(t testing.TB) *http.Client {
	transport := &http.Transport{Proxy: nil}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func unixClient(t testing.TB, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func tokenQuery(resource string, more ...string) string {
	q := imds.TokenPath + "?api-version=2018-02-01&resource=" + url.QueryEscape(resource)
	for _, m := range more {
		q += "&" + m
	}
	return q
}

func nameOf(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

// except excepts the pods of a name.
func (w *world) except(pod string) {
	w.authorize.SetException(&v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": pod}},
	})
}

// noLabel removes the labels of a pod.
func noLabel(p *corev1.Pod) { p.Labels = nil }
