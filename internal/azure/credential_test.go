package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	azlog "github.com/Azure/azure-sdk-for-go/sdk/azcore/log"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/cloud"
)

// entra is a transport that acts as Entra ID and as the metadata service.
type entra struct {
	mu       sync.Mutex
	requests []string
	forms    []url.Values
	status   int
	body     string
	gone     bool // no response at all
}

func (e *entra) Do(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, errors.New("connection refused")
	}
	e.requests = append(e.requests, req.Method+" "+req.URL.Scheme+"://"+req.URL.Host+req.URL.Path)
	status, body := http.StatusOK, `{"token_type":"Bearer","expires_in":3600,"expires_on":"4000000000","resource":"r","access_token":"token-`+fmt.Sprint(len(e.requests))+`"}`
	switch {
	case strings.HasSuffix(req.URL.Path, "/.well-known/openid-configuration"):
		base := "https://" + req.URL.Host + strings.TrimSuffix(strings.TrimSuffix(req.URL.Path, "/.well-known/openid-configuration"), "/v2.0")
		body = `{"authorization_endpoint":"` + base + `/authorize","token_endpoint":"` + base + `/token","issuer":"` + base + `"}`
	case req.Method == http.MethodPost || strings.HasPrefix(req.URL.Path, "/metadata"):
		form := req.URL.Query()
		if req.Body != nil {
			data, _ := io.ReadAll(req.Body)
			form, _ = url.ParseQuery(string(data))
		}
		e.forms = append(e.forms, form)
		if e.status != 0 {
			status, body = e.status, e.body
		}
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// last returns the parameters of the last token request.
func (e *entra) last() url.Values {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.forms) == 0 {
		return nil
	}
	return e.forms[len(e.forms)-1]
}

// count returns the number of token requests.
func (e *entra) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.forms)
}

// logged collects log lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) logger() logr.Logger {
	return funcr.New(func(_, line string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, line)
	}, funcr.Options{})
}

// stackFile is a private cloud, for which there is no look-up at Entra ID's own hosts.
const stackFile = `{"resourceManagerEndpoint":"https://arm.local","activeDirectoryEndpoint":"https://login.local/"}`

func scope() policy.TokenRequestOptions {
	return policy.TokenRequestOptions{Scopes: []string{"https://arm.local/.default"}}
}

// setUp loads the file and returns its credential.
func setUp(t *testing.T, path string, azure *entra, log logr.Logger) *Credential {
	t.Helper()
	getenv := env(cloud.EnvironmentFilepath, put(t, stackFile))
	config, err := Load(path, getenv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredential(config, CredentialOptions{Path: path, Getenv: getenv, Log: log, Transport: azure})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustToken(t *testing.T, c *Credential) string {
	t.Helper()
	token, err := c.GetToken(t.Context(), scope())
	if err != nil {
		t.Fatal(err)
	}
	return token.Token
}

func stackConfig(fields string) string { return `{"cloud":"AzureStackCloud",` + fields + `}` }

func TestServicePrincipal(t *testing.T) {
	azure := &entra{}
	c := setUp(t, put(t, stackConfig(principal)), azure, logr.Discard())
	first := mustToken(t, c)
	if again := mustToken(t, c); again != first || azure.count() != 1 {
		t.Errorf("%d token requests, want one", azure.count())
	}
	form := azure.last()
	if form.Get("client_id") != "c" || form.Get("client_secret") != "hunter2" || !strings.HasPrefix(form.Get("scope"), "https://arm.local/.default") {
		t.Errorf("client %q, scope %q", form.Get("client_id"), form.Get("scope"))
	}
	for _, request := range azure.requests {
		if !strings.Contains(request, " https://login.local/t/") {
			t.Errorf("%s: a private cloud asks nobody else", request)
		}
	}
}

func TestADFS(t *testing.T) {
	azure := &entra{}
	getenv := env(cloud.EnvironmentFilepath, put(t, `{"resourceManagerEndpoint":"https://arm.local","activeDirectoryEndpoint":"https://login.local/adfs"}`))
	config, err := Load(put(t, stackConfig(`"tenantId":"adfs","aadClientId":"c","aadClientSecret":"hunter2"`)), getenv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredential(config, CredentialOptions{Transport: azure})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.GetToken(t.Context(), scope())
	for _, request := range azure.requests {
		if !strings.HasPrefix(strings.SplitN(request, " ", 2)[1], "https://login.local/adfs/") || strings.Contains(request, "/adfs/adfs") {
			t.Errorf("%s is not below /adfs", request)
		}
	}
	if azure.count() != 1 {
		t.Errorf("%d token requests, want one: %v", azure.count(), azure.requests)
	}
}

func TestManagedIdentity(t *testing.T) {
	for _, tt := range []struct{ name, id, want string }{
		{"system-assigned", "", ""},
		{"client id", "11111111-2222-3333-4444-555555555555", "client_id"},
		{"resource id", "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i", "msi_res_id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			azure := &entra{}
			c := setUp(t, put(t, stackConfig(`"useManagedIdentityExtension":true,"userAssignedIdentityID":"`+tt.id+`"`)), azure, logr.Discard())
			// The SDK caches these tokens for the whole process: request one that no other test has.
			resource := fmt.Sprintf("https://%d.local/.default", time.Now().UnixNano())
			if _, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{resource}}); err != nil {
				t.Fatal(err)
			}
			form := azure.last()
			for _, selector := range []string{"client_id", "msi_res_id", "object_id"} {
				want := ""
				if selector == tt.want {
					want = tt.id
				}
				if form.Get(selector) != want {
					t.Errorf("%s = %q, want %q", selector, form.Get(selector), want)
				}
			}
		})
	}
}

// TestRotation: the file changes in place, and by a swapped link as in a mounted secret.
func TestRotation(t *testing.T) {
	azure, log := &entra{}, &logged{}
	folder := t.TempDir()
	path := filepath.Join(folder, "azure.json")
	target := put(t, stackConfig(principal))
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	c := setUp(t, path, azure, log.logger())
	mustToken(t, c)

	rotated := stackConfig(strings.Replace(principal, "hunter2", "correct", 1)) // same length
	later := time.Now().Add(time.Second)                                        // a file system's clock may be too coarse for a test
	if err := errors.Join(os.WriteFile(target, []byte(rotated), 0o600), os.Chtimes(target, later, later)); err != nil {
		t.Fatal(err)
	}
	mustToken(t, c)
	if have := azure.last().Get("client_secret"); have != "correct" || azure.count() != 2 {
		t.Errorf("%d requests, the last with the old secret: %v", azure.count(), have != "correct")
	}

	next := put(t, stackConfig(strings.Replace(principal, "hunter2", "batteries", 1)))
	if err := errors.Join(os.Symlink(next, path+".new"), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	mustToken(t, c)
	mustToken(t, c)
	if have := azure.last().Get("client_secret"); have != "batteries" || azure.count() != 3 {
		t.Errorf("%d requests, the last with the old secret: %v", azure.count(), have != "batteries")
	}
	if text := strings.Join(log.lines, "\n"); len(log.lines) != 2 || strings.Contains(text, "batteries") || strings.Contains(text, "correct") {
		t.Errorf("want two lines without secrets:\n%s", text)
	}
}

// TestBrokenRotation: the last valid config stays and the error is logged once; a later valid one
// is used.
func TestBrokenRotation(t *testing.T) {
	azure, log := &entra{}, &logged{}
	path := put(t, stackConfig(principal))
	c := setUp(t, path, azure, log.logger())
	first := mustToken(t, c)
	for i, broken := range []string{"{", stackConfig(`"tenantId":"t"`), `{` + principal + `}`, ""} {
		if broken == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if mustToken(t, c) != first {
				t.Errorf("broken file %d: another token", i)
			}
		}
		if len(log.lines) != i+1 {
			t.Errorf("broken file %d: %d lines, want one each:\n%s", i, len(log.lines), strings.Join(log.lines, "\n"))
		}
	}
	if err := os.WriteFile(path, []byte(stackConfig(strings.Replace(principal, "hunter2", "again", 1))), 0o600); err != nil {
		t.Fatal(err)
	}
	mustToken(t, c)
	if azure.last().Get("client_secret") != "again" {
		t.Error("the good file was not taken")
	}
}

func TestSignInErrors(t *testing.T) {
	const full = "99999999-8888-7777-6666-555555555555"
	service := strings.Replace(principal, `"c"`, `"`+full+`"`, 1)
	for _, tt := range []struct {
		name, config string
		status       int
		body, want   string
	}{
		{
			"wrong secret", service, 401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided for app '` + full + `'.\r\nTrace ID: x\r\nCorrelation ID: y"}`,
			"sign in as service principal 99999999…: AADSTS7000215: Invalid client secret provided for app '99999999…'. (check tenantId, aadClientId and aadClientSecret in the cloud config)",
		},
		{
			"not on this machine", `"useManagedIdentityExtension":true,"userAssignedIdentityID":"` + full + `"`, 403, `{"error":"forbidden","error_description":"no binding"}`,
			"sign in as managed identity 99999999…: no binding (check that the machines have this identity, and that an AzurePodIdentityException lets this pod reach the metadata service)",
		},
		{"throttled", service, 429, "{}", "sign in as service principal 99999999…: HTTP 429 (Azure is in trouble; this is tried again)"},
		{"no words", service, 403, "<html>", "sign in as service principal 99999999…: HTTP 403 (check tenantId, aadClientId and aadClientSecret in the cloud config)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the SDK waits between attempts
				c := setUp(t, put(t, stackConfig(tt.config)), &entra{status: tt.status, body: tt.body}, logr.Discard())
				_, err := c.GetToken(t.Context(), scope())
				if diff := cmp.Diff(tt.want, fmt.Sprint(err)); diff != "" {
					t.Errorf("(-want +have):\n%s", diff)
				}
				var final interface{ NonRetriable() }
				if !errors.As(err, &final) {
					t.Error("the SDK would retry this")
				}
			})
		})
	}
}

func TestSignInUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := setUp(t, put(t, stackConfig(principal)), &entra{gone: true}, logr.Discard())
		start := time.Now()
		_, err := c.GetToken(t.Context(), scope())
		if text := fmt.Sprint(err); !strings.Contains(text, "SSL_CERT_FILE") || !strings.HasPrefix(text, "sign in as service principal c: ") {
			t.Error(text)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("gave up after %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.GetToken(ctx, scope()); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the context's error", err)
		}
	})
}

func TestConcurrentTokens(t *testing.T) {
	path := put(t, stackConfig(principal))
	c := setUp(t, path, &entra{}, logr.Discard())
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if i == 3 {
				_ = os.WriteFile(path, []byte(stackConfig(strings.Replace(principal, "hunter2", "third", 1))), 0o600)
			}
			if _, err := c.GetToken(t.Context(), scope()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestSDKLogHoldsNoSecret makes the SDK log everything, as with AZURE_SDK_GO_LOGGING=all. The log
// must contain neither the client secret nor a token.
func TestSDKLogHoldsNoSecret(t *testing.T) {
	sdk := &logged{}
	azlog.SetListener(func(event azlog.Event, text string) {
		sdk.mu.Lock()
		defer sdk.mu.Unlock()
		sdk.lines = append(sdk.lines, string(event)+" "+text)
	})
	t.Cleanup(func() { azlog.SetListener(nil) })
	const refusal = `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}`
	for _, azure := range []*entra{{}, {status: http.StatusUnauthorized, body: refusal}} {
		c := setUp(t, put(t, stackConfig(principal)), azure, logr.Discard())
		_, err := c.GetToken(t.Context(), scope())
		if (err != nil) != (azure.status != 0) || azure.last().Get("client_secret") != "hunter2" {
			t.Fatalf("want the secret sent and only the second one refused: %v", err)
		}
	}
	text := strings.Join(sdk.lines, "\n")
	if !strings.Contains(text, "https://login.local/t/") {
		t.Errorf("the SDK logged no request:\n%s", text)
	}
	for _, secret := range []string{"hunter2", "token-"} {
		if strings.Contains(text, secret) {
			t.Errorf("the SDK logged %q:\n%s", secret, text)
		}
	}
}
