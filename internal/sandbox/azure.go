// The emulated Azure that the sandbox's nodes belong to.

package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/node"
)

// Names in the emulated Azure. They are the same in every sandbox because they exist only inside
// it.
const (
	TenantID       = "11111111-1111-4111-8111-111111111111"
	SubscriptionID = "22222222-2222-4222-8222-222222222222"
	ResourceGroup  = "sandbox"
	ScaleSet       = "nodes"
	operatorID     = "33333333-3333-4333-8333-333333333333"
	operatorOID    = "66666666-6666-4666-8666-666666666666"
)

// Azure holds the addresses of the emulator inside the sandbox.
type Azure struct {
	ARM      string `json:"arm"`
	Entra    string `json:"entra"`
	Metadata string `json:"metadata"`
	Control  string `json:"control"`
}

// Identity is a user-assigned managed identity that exists in the emulated Azure.
type Identity struct {
	Name, ResourceID, ClientID, PrincipalID string
}

// Identities returns the managed identities of every sandbox. None is on the nodes at first. The
// first may read the resource group, the second has no permissions.
func Identities() []Identity {
	identity := func(name string, number int) Identity {
		return Identity{
			Name: name,
			ResourceID: "/subscriptions/" + SubscriptionID + "/resourceGroups/" + ResourceGroup +
				"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name,
			ClientID:    fmt.Sprintf("44444444-4444-4444-8444-%012d", number),
			PrincipalID: fmt.Sprintf("55555555-5555-4555-8555-%012d", number),
		}
	}
	return []Identity{identity("demo-identity", 1), identity("other-identity", 2)}
}

// ScaleSetID returns the ARM ID of the nodes' scale set.
func ScaleSetID() string {
	return "/subscriptions/" + SubscriptionID + "/resourceGroups/" + ResourceGroup +
		"/providers/Microsoft.Compute/virtualMachineScaleSets/" + ScaleSet
}

// providerID returns what the kubelet reports as the machine it runs on.
func providerID(n network.Node) string {
	return "azure://" + ScaleSetID() + "/virtualMachines/" + strconv.Itoa(n.Index)
}

// world returns the emulator's document; docs/emulator.md describes it.
func world(plan network.Plan, update time.Duration, secret string) ([]byte, error) {
	type object map[string]any
	var instances, identities []object
	for _, n := range plan.Nodes {
		instances = append(instances, object{
			"id": strconv.Itoa(n.Index), "name": n.Name, "addresses": []string{n.IP.Addr().String()},
		})
	}
	for _, i := range Identities() {
		identities = append(identities, object{"resourceID": i.ResourceID, "clientID": i.ClientID, "principalID": i.PrincipalID})
	}
	group := "/subscriptions/" + SubscriptionID + "/resourceGroups/" + ResourceGroup
	out, err := yaml.Marshal(object{
		"location":      "westeurope",
		"tenants":       []object{{"id": TenantID, "domain": "sandbox.onmicrosoft.com"}},
		"subscriptions": []object{{"id": SubscriptionID, "name": "sandbox"}},
		"identities":    identities,
		"applications":  []object{{"name": "operator", "clientID": operatorID, "principalID": operatorOID, "secret": secret}},
		"scaleSets":     []object{{"resourceGroup": ResourceGroup, "name": ScaleSet, "instances": instances}},
		"roleAssignments": []object{
			{"principalID": operatorOID, "scope": group, "role": "Virtual Machine Contributor"},
			{"principalID": operatorOID, "scope": group, "role": "Managed Identity Operator"},
			{"principalID": Identities()[0].PrincipalID, "scope": group, "role": "Reader"},
		},
		"settings": object{"authorization": "roles", "arm": object{"updateDuration": update.String()}},
	})
	if err != nil {
		return nil, fmt.Errorf("describe the emulated Azure: %w", err)
	}
	return out, nil
}

// azureService prepares the emulator's folder and returns how to start it.
func (b *build) azureService() ([]node.Service, error) {
	dir := b.layout.Azure()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start the emulated Azure: %w", err)
	}
	doc, err := world(b.plan, b.options.ARMUpdate, rand.Text())
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "world.yaml")
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		return nil, fmt.Errorf("start the emulated Azure: %w", err)
	}
	at := func(ip netip.Addr, port uint16) string { return netip.AddrPortFrom(ip, port).String() }
	azure := Azure{
		ARM: at(b.plan.Azure.Addr(), 443), Entra: at(b.plan.Azure.Addr(), 8443),
		Metadata: at(b.plan.Metadata.Addr(), network.MetadataPort), Control: "127.0.0.1:8099",
	}
	if err := b.update(func(st *State) { st.Azure = azure }); err != nil {
		return nil, err
	}
	return []node.Service{{
		Name: "azure", Path: b.sandbox.self, Log: filepath.Join(b.layout.Logs(), "azure.log"),
		Args: []string{
			"emulator", "--dir=" + dir, "--world=" + file,
			"--arm-address=" + azure.ARM, "--entra-address=" + azure.Entra,
			"--imds-address=" + azure.Metadata, "--control-address=" + azure.Control,
			"--hosts=" + b.plan.Azure.Addr().String(), "--allow-non-loopback",
		},
	}}, nil
}

// waitAzure polls the emulator's control API until it answers. The emulator's files for the nodes
// exist then.
func (b *build) waitAzure(ctx context.Context) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := askControl(ctx, b.plan.Switch, b.state.Azure.Control, "/v1/settings", nil)
		if err == nil {
			return nil
		}
		if end := b.ended(); end != nil {
			return end
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%w (last answer: %w)", context.Cause(ctx), err)
		}
	}
}

// askControl calls the emulator's control API from outside the sandbox and decodes the answer into
// a value unless that is nil.
func askControl(ctx context.Context, ns netns.Namespace, address, path string, into any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return ns.Dial(ctx, network, addr)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return fmt.Errorf("ask the emulator: %w", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the emulator: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("ask the emulator: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the emulator for %s: %s: %.200s", path, answer.Status, body)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the emulator's answer: %w", err)
	}
	return nil
}

// AskAzure calls the emulator's control API from outside the sandbox and decodes the JSON answer.
func (s *Sandbox) AskAzure(ctx context.Context, path string, into any) error {
	state, err := s.layout.load()
	if err != nil {
		return err
	}
	ns, err := s.Switch()
	if err != nil {
		return err
	}
	return askControl(ctx, ns, state.Azure.Control, path, into)
}

// ARM returns the URL of the emulated Azure Resource Manager inside the sandbox.
func (s *Sandbox) ARM() (string, error) {
	state, err := s.layout.load()
	if err != nil {
		return "", err
	}
	return "https://" + strings.TrimSuffix(state.Azure.ARM, ":443"), nil
}
