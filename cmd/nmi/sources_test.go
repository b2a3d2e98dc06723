package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/cluster"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/server"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/testenv"
)

const theSecret = "s3cret~Value-of.the_application"

// TestServicePrincipal follows a request through the agent without redirect: in standard mode,
// without an AzureAssignedIdentity, from the Secret in the API server to the token of an Entra ID
// over TLS. Then it searches all output for secrets.
func TestServicePrincipal(t *testing.T) {
	good, multi, wrong := world.GUID("good"), world.GUID("multi"), world.GUID("wrong")
	second := world.GUID("second")
	doc := world.Default(theSecret)
	doc.Tenants = append(doc.Tenants, world.Tenant{ID: second})
	doc.Applications = append(doc.Applications,
		world.Application{ClientID: good, PrincipalID: world.GUID("p1"), Secret: theSecret},
		world.Application{ClientID: multi, PrincipalID: world.GUID("p2"), Secret: theSecret, OtherTenantIDs: []string{second}},
		world.Application{ClientID: wrong, PrincipalID: world.GUID("p3"), Secret: "another"})
	azure, err := emulator.Start(t.Context(), emulator.Config{
		Dir: t.TempDir(), World: &doc, ARMAddress: "127.0.0.1:0", EntraAddress: "127.0.0.1:0", IMDSAddress: "127.0.0.1:0", ControlAddress: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = azure.Close(context.Background()) })
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/shop/secrets/web" {
			t.Errorf("the API server was asked for %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(&corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, Data: map[string][]byte{"clientSecret": []byte(theSecret)},
		})
	}))
	t.Cleanup(api.Close)

	a := newAgentUnderTest(t, azure, api.URL)
	for name, id := range map[string]*v1.AzureIdentity{"good": principal("good", good), "multi": principal("multi", multi, second), "wrong": principal("wrong", wrong)} {
		a.pod(name, id)
	}
	status, body := a.ask("good", "https://vault.azure.net")
	var reply map[string]string // all strings, as IMDS's
	if err := json.Unmarshal(body, &reply); err != nil || status != 200 {
		t.Fatalf("%d %s: %v", status, body, err)
	}
	for _, field := range []string{"access_token", "expires_in", "expires_on", "ext_expires_in", "not_before", "token_type"} {
		if reply[field] == "" {
			t.Errorf("no %s in the reply", field)
		}
	}
	if reply["resource"] != "https://vault.azure.net" || reply["client_id"] != good {
		t.Errorf("resource %q, client_id %q", reply["resource"], reply["client_id"])
	}

	// The reply to a multi-tenant application is a list. The host gets the first of it.
	status, body = a.ask("multi", "https://vault.azure.net")
	var replies []map[string]string
	if err := json.Unmarshal(body, &replies); err != nil || status != 200 || len(replies) != 2 || replies[0]["access_token"] == replies[1]["access_token"] {
		t.Fatalf("%d, %d replies: %v", status, len(replies), err)
	}
	var host struct {
		Token struct {
			AccessToken string `json:"access_token"`
		}
		ClientID string
	}
	if status, body = a.askHost("multi"); status != 200 || json.Unmarshal(body, &host) != nil ||
		host.Token.AccessToken != replies[0]["access_token"] || host.ClientID != multi {
		t.Errorf("%d for the host", status)
	}

	status, body = a.ask("wrong", "https://vault.azure.net")
	if status != 403 || !strings.Contains(string(body), "AADSTS7000215") || !strings.Contains(string(body), "az ad app credential reset") {
		t.Errorf("%d %s", status, body)
	}
	if strings.Contains(string(body), theSecret) {
		t.Error("the secret is in the answer")
	}

	logged := a.logged()
	if !strings.Contains(logged, "7000215") || strings.Count(logged, "\n") < 4 {
		t.Errorf("nothing was logged: %s", logged)
	}
	for what, text := range map[string]string{
		"the secret": theSecret, "a token": reply["access_token"], "a part of a token": "eyJ", "a client ID": good, "another": wrong,
	} {
		if strings.Contains(logged, text) {
			t.Errorf("%s is in the log:\n%s", what, logged)
		}
	}
}

// agentUnderTest is an agent without redirect and watches.
type agentUnderTest struct {
	t      *testing.T
	table  *authorize.Table
	attest *attest.Table
	server *server.Server
	// pods and host are its addresses.
	pods, host string

	log testenv.Buffer
	ips map[string]string
	end func()
}

func newAgentUnderTest(t *testing.T, azure *emulator.Emulator, api string) *agentUnderTest {
	t.Helper()
	ca, err := os.ReadFile(azure.Endpoints().CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	o := &options{}
	if err := o.parse([]string{"--node=n1", "--authority-host=" + azure.Endpoints().Entra}, noEnv, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	o.entra.roots = roots
	objects, err := cluster.NewObjects(&rest.Config{Host: api}, "n1", "podid-brokers")
	if err != nil {
		t.Fatal(err)
	}
	a := &agentUnderTest{t: t, ips: map[string]string{}}
	a.attest = attest.NewTable(attest.Config{MaxWaiting: 16, MaxPerSource: 4})
	a.table = authorize.NewTable(authorize.Config{
		Rules: identity.Rules{ForceNamespaced: true}, Standard: true, Node: "n1", Types: served(), ArrivalLimit: time.Second, BindingLimit: time.Second,
	})
	log := funcr.New(func(prefix, args string) {
		_, _ = fmt.Fprintln(&a.log, prefix, args)
	}, funcr.Options{Verbosity: 10})
	metrics, known, limiter := observe.NewMetrics(nil), make(chan struct{}), fair.New(tokenLimits())
	close(known)
	flights, end := context.WithCancel(logr.NewContext(context.Background(), log))
	t.Cleanup(end)
	auditLog := audit.New(audit.All, func() {})
	written := make(chan struct{})
	go func() {
		defer close(written)
		auditLog.Run(flights, &a.log)
	}()
	a.end = func() { end(); <-written }
	a.server = server.New(server.Config{
		Attester: a.attest, Authorizer: a.table, Known: known, Stopping: make(chan struct{}),
		Tokens: token.NewCache(flights, token.CacheConfig{
			Source: sources(o, strings.TrimPrefix(azure.Endpoints().IMDS, "http://"), limiter, objects, cluster.NewOwnIdentities(nil), metrics),
			Render: render, Max: maxTokens, MaxPerIdentity: maxPerIdentity, FetchTimeout: fetchTime, StaleAfter: staleAfter,
		}),
		Upstream: "127.0.0.1:1", TokenLimiter: limiter, OtherLimiter: fair.New(otherLimits()), Probes: (&observe.Health{}).Handler(),
		HeaderRequired: true, HostTokenTCP: true, AttestLimit: time.Second, MaxPending: 8, MaxPendingPerPod: 8, Metrics: metrics, Log: log,
		Audit: auditLog,
	})
	a.pods, a.host = a.serve(flights, a.server.ServePod), a.serve(flights, a.server.ServeHost)
	return a
}

func principal(name, clientID string, auxiliary ...string) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec: v1.AzureIdentitySpec{
			Type: v1.ServicePrincipal, TenantID: world.DefaultTenant, ClientID: clientID, AuxiliaryTenantIDs: auxiliary,
			ClientPassword: v1.SecretReference{Name: "web"},
		},
	}
}

// pod adds a pod that may use the identity.
func (a *agentUnderTest) pod(name string, id *v1.AzureIdentity) {
	a.ips[name] = fmt.Sprintf("10.0.0.%d", len(a.ips)+5)
	labels := map[string]string{v1.BindingLabel: name}
	a.table.SetPod(identity.Pod{Namespace: "shop", Name: name, Labels: labels})
	a.attest.Set(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("pod-" + name), Labels: labels},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: a.ips[name], HostIP: "10.9.9.9"},
	})
	a.table.SetIdentity(id)
	a.table.SetBinding(&v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: id.Name, Selector: name},
	})
}

// disguised is a listener whose clients on 127.x.y.z appear as 10.x.y.z, except for 127.0.0.1.
type disguised struct{ net.Listener }

type disguisedConn struct{ net.Conn }

func (l disguised) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return disguisedConn{c}, err
}

func (c disguisedConn) RemoteAddr() net.Addr {
	a := *c.Conn.RemoteAddr().(*net.TCPAddr) //nolint:forcetypeassert // it is TCP
	if ip := a.IP.To4(); !ip.Equal(net.IPv4(127, 0, 0, 1)) {
		a.IP = net.IPv4(10, ip[1], ip[2], ip[3])
	}
	return &a
}

// serve starts a listener and returns its address.
func (a *agentUnderTest) serve(ctx context.Context, handler http.HandlerFunc) string {
	a.t.Helper()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	go func() {
		_ = connections.Serve(ctx, disguised{l}, attest.NewOrigins(), handler, connections.Limits{Total: 64, PerSource: 64}, logr.Discard())
	}()
	return l.Addr().String()
}

func (a *agentUnderTest) ask(pod, resource string) (int, []byte) {
	return a.get(strings.Replace(a.ips[pod], "10.", "127.", 1), a.pods, "/metadata/identity/oauth2/token?api-version=2018-02-01&resource="+resource, "Metadata", "true")
}

func (a *agentUnderTest) askHost(pod string) (int, []byte) {
	return a.get("127.0.0.1", a.host, "/host/token?resource=https://vault.azure.net", "podns", "shop", "podname", pod)
}

// get sends a request from an address of lo.
func (a *agentUnderTest) get(from, address, target string, headers ...string) (int, []byte) {
	a.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://"+address+target, http.NoBody)
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, body
}

// logged stops the agent and returns all that it logged.
func (a *agentUnderTest) logged() string {
	a.end()
	return a.log.String()
}
