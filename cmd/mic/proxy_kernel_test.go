// Tests which of MIC's requests go through a proxy.

package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/testnet"
)

// asProxied is an environment variable. It makes this test program read a VM with the cloud config
// in its value, and exit.
const asProxied = "PODID_TEST_PROXIED"

// heard records requests.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) note(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.lines, line) { // the SDK retries
		h.lines = append(h.lines, line)
	}
}

func (h *heard) sorted() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(slices.Values(h.lines))
}

// TestProxy: requests to the metadata service use no proxy, regardless of HTTP_PROXY and NO_PROXY.
// Requests to ARM and Entra ID use it.
func TestProxy(t *testing.T) {
	testnet.Require(t)
	const proxyAddress, metadataAddress = "10.9.9.9:3128", "169.254.169.254:80"
	machine := testnet.New(t)
	machine.Address(t, "lo", "169.254.169.254/32")
	machine.Address(t, "lo", "10.9.9.9/32")
	var proxy, metadata heard
	serve(t, machine, metadataAddress, func(w http.ResponseWriter, r *http.Request) {
		metadata.note(r.Method + " " + r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"t","expires_in":"3600","expires_on":"4000000000","resource":"r","token_type":"Bearer"}`)
	})
	serve(t, machine, proxyAddress, func(w http.ResponseWriter, r *http.Request) {
		proxy.note(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusBadGateway)
	})
	const account = `"tenantId": "11111111-2222-3333-4444-555555555555", "subscriptionId": "11111111-2222-3333-4444-555555555555", "cloud": "AzureStackCloud"`
	for _, test := range []struct {
		name, config    string
		metadata, proxy []string
	}{
		{
			name: "managed identity", config: `{` + account + `, "useManagedIdentityExtension": true}`,
			metadata: []string{"GET /metadata/identity/oauth2/token"}, proxy: []string{"CONNECT arm.example:443"},
		},
		{
			name:   "service principal",
			config: `{` + account + `, "aadClientId": "66666666-2222-3333-4444-555555555555", "aadClientSecret": "secret"}`,
			proxy:  []string{"CONNECT login.example:443"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			metadata.lines, proxy.lines = nil, nil
			dir := t.TempDir()
			config, endpoints := filepath.Join(dir, "azure.json"), filepath.Join(dir, "endpoints.json")
			for path, content := range map[string]string{
				config:    test.config,
				endpoints: `{"resourceManagerEndpoint": "https://arm.example", "activeDirectoryEndpoint": "https://login.example/"}`,
			} {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var said strings.Builder
			command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxied$", "-test.v")
			command.Env = []string{
				asProxied + "=" + config, "AZURE_ENVIRONMENT_FILEPATH=" + endpoints,
				"HTTP_PROXY=http://" + proxyAddress, "HTTPS_PROXY=http://" + proxyAddress,
			}
			command.Stdout, command.Stderr = &said, &said
			if err := machine.Do(command.Start); err != nil {
				t.Fatal(err)
			}
			if err := command.Wait(); err != nil {
				t.Fatalf("%v:\n%s", err, said.String())
			}
			if diff := cmp.Diff(test.metadata, metadata.sorted()); diff != "" {
				t.Errorf("the metadata service was asked (-want +have):\n%s\n%s", diff, said.String())
			}
			if diff := cmp.Diff(test.proxy, proxy.sorted()); diff != "" {
				t.Errorf("the proxy was asked (-want +have):\n%s\n%s", diff, said.String())
			}
		})
	}
}

// serve serves HTTP at an address in the namespace.
func serve(t *testing.T, machine *testnet.Net, address string, handle http.HandlerFunc) {
	t.Helper()
	var listener net.Listener
	if err := machine.Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handle, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// TestProxied is the other process of TestProxy, in its namespace, and sends the requests of mic.
// The last one fails because no real server responds.
func TestProxied(t *testing.T) {
	config := os.Getenv(asProxied)
	if config == "" {
		t.Skip("part of TestProxy")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := &options{}
	o.azure.cloudConfig = config
	client, _, err := armClient(ctx, o, os.Getenv, observe.NewMetrics(prometheus.NewRegistry()), &observe.Health{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Get(ctx, compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"})
	if err == nil {
		t.Error("got an answer where no server is")
	}
	t.Log("as expected:", err)
}
