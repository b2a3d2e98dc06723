package emulator_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/control"
	"github.com/podid-io/podid/internal/emulator/world"
)

const anyPort = "127.0.0.1:0"

func config(dir string) emulator.Config {
	return emulator.Config{Dir: dir, ARMAddress: anyPort, EntraAddress: anyPort, IMDSAddress: anyPort, ControlAddress: anyPort}
}

// TestKeptDir starts twice in one directory: keys, world, secret and tokens stay valid.
func TestKeptDir(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	kept := []string{"ca.crt", "ca.key", "signing.key", "world.yaml", "azure.json"}
	var before []string
	for run := range 2 {
		e, err := emulator.Start(t.Context(), config(dir))
		if err != nil {
			t.Fatal(err)
		}
		var now []string
		for _, name := range kept {
			now = append(now, read(name))
		}
		if run == 1 && !cmp.Equal(before, now) {
			t.Errorf("the second run changed a file")
		}
		before = now
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"ca.key", "signing.key", "world.yaml", "azure.json"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestClientFiles(t *testing.T) {
	c := config(t.TempDir())
	c.Hosts, c.ARMURL = []string{"azure.example", "10.1.2.3"}, "https://arm.example/"
	e, err := emulator.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close(t.Context()) }()
	read := func(path string) map[string]any {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var content map[string]any
		if err := json.Unmarshal(data, &content); err != nil {
			t.Fatal(err)
		}
		return content
	}
	azure := read(e.Endpoints().Azure)
	delete(azure, "aadClientSecret")
	want := map[string]any{
		"cloud": "AzureStackCloud", "tenantId": world.DefaultTenant, "subscriptionId": world.DefaultSubscription,
		"location": "westeurope", "resourceGroup": "demo", "vmType": "vmss", "aadClientId": world.DefaultApplication,
		"useManagedIdentityExtension": false, "userAssignedIdentityID": "",
	}
	if diff := cmp.Diff(want, azure); diff != "" {
		t.Errorf("azure.json (-want +got):\n%s", diff)
	}
	stack := read(e.Endpoints().Cloud)
	if stack["resourceManagerEndpoint"] != "https://arm.example/" || !strings.HasPrefix(stack["activeDirectoryEndpoint"].(string), "https://azure.example:") {
		t.Errorf("azurestackcloud.json: %v", stack)
	}
}

func TestBadConfig(t *testing.T) {
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "ca.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "ca.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*emulator.Config)
		want   string
	}{
		{"no directory", func(c *emulator.Config) { c.Dir = "" }, "--dir"},
		{"directory is a file", func(c *emulator.Config) { c.Dir = filepath.Join(broken, "ca.key") }, "emulator directory"},
		{"broken CA", func(c *emulator.Config) { c.Dir = broken }, "for a new one"},
		{"no port", func(c *emulator.Config) { c.ARMAddress = "127.0.0.1" }, `--arm-address "127.0.0.1": expected host:port`},
		{"URL", func(c *emulator.Config) { c.EntraURL = "http://x" }, "--entra-url"},
		{"world", func(c *emulator.Config) { c.World = &world.Document{} }, "name at least one"},
		{"port in use", func(c *emulator.Config) { c.ARMAddress = "127.0.0.1:1"; c.EntraAddress = "127.0.0.1:1" }, "choose another address"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := config(t.TempDir())
			test.change(&c)
			e, err := emulator.Start(t.Context(), c)
			if err == nil {
				_ = e.Close(t.Context())
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestOnlyLoopback: in the machine's own network, other hosts may not reach the emulator.
func TestOnlyLoopback(t *testing.T) {
	links, err := net.Interfaces()
	mine, err1 := os.Readlink("/proc/self/ns/net")
	first, err2 := os.Readlink("/proc/1/ns/net")
	if err != nil || len(links) < 2 || (err1 == nil && err2 == nil && mine != first) {
		t.Skip("this is not the machine's own network namespace")
	}
	for _, address := range []string{"0.0.0.0:0", ":0", "169.254.169.254:80", "[::]:0", "10.0.0.1:443"} {
		c := config(t.TempDir())
		c.IMDSAddress = address
		e, err := emulator.Start(t.Context(), c)
		if err == nil {
			_ = e.Close(t.Context())
			t.Errorf("%s: it started", address)
		} else if !strings.Contains(err.Error(), "--allow-non-loopback") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestHangEnds: Close does not wait for requests that hang in a fault.
func TestHangEnds(t *testing.T) {
	e, err := emulator.Start(t.Context(), config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	c := control.NewClient(e.Endpoints().Control)
	if err := c.SetFault(t.Context(), world.Fault{Name: "f", Hang: true}); err != nil {
		t.Fatal(err)
	}
	client := trusting(t, e)
	done := make(chan struct{})
	sent := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Endpoints().IMDS, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		answer, err := client.Do(request)
		if err == nil {
			_ = answer.Body.Close()
		}
	}()
	<-sent
	begin := time.Now()
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-done
	if d := time.Since(begin); d > 1500*time.Millisecond {
		t.Errorf("closing took %s", d)
	}
}

// TestManyClients connects many SDK clients at once, for the race detector.
func TestManyClients(t *testing.T) {
	a := start(t, func(d *world.Document) { d.Settings.Limits.Enabled = false })
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			if _, err := a.token(t, a.managedIdentity(t, nil)); err != nil {
				t.Error(err)
			}
			if _, err := a.token(t, a.secretCredential(t, secret)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := len(a.World().Log().Find(world.Filter{Surface: "imds", Status: 200})); got < 1 || got > 16 {
		t.Errorf("%d token requests at IMDS", got)
	}
}
