// The real Azure SDK with the emulator, over TLS. docs/emulator.md refers to this program.

package emulator_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	secret   = "a-secret-of-the-test"
	identity = "/subscriptions/" + world.DefaultSubscription + "/resourceGroups/demo/providers/" +
		"Microsoft.ManagedIdentity/userAssignedIdentities/demo-identity"
)

// azure is a running emulator with its clients' settings.
type azure struct {
	*emulator.Emulator
	client *http.Client
	sdk    policy.ClientOptions
}

// start runs an emulator on free ports until the test ends.
func start(t *testing.T, change func(*world.Document)) *azure {
	t.Helper()
	doc := world.Default(secret)
	doc.Settings.ARM.UpdateDuration = 0
	if change != nil {
		change(&doc)
	}
	const anyPort = "127.0.0.1:0"
	e, err := emulator.Start(t.Context(), emulator.Config{
		Dir: t.TempDir(), World: &doc,
		ARMAddress: anyPort, EntraAddress: anyPort, IMDSAddress: anyPort, ControlAddress: anyPort,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return &azure{Emulator: e, client: trusting(t, e), sdk: sdkOptions(e.Endpoints(), trusting(t, e))}
}

// trusting returns an HTTP client that trusts only the emulator's CA.
func trusting(t *testing.T, e *emulator.Emulator) *http.Client {
	t.Helper()
	ca, err := os.ReadFile(e.Endpoints().CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func sdkOptions(e emulator.Endpoints, client *http.Client) policy.ClientOptions {
	return policy.ClientOptions{
		Transport: client,
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: e.Entra,
			Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
				cloud.ResourceManager: {Endpoint: e.ARM, Audience: "https://management.azure.com/"},
			},
		},
	}
}

func (a *azure) secretCredential(t *testing.T, secret string) azcore.TokenCredential {
	t.Helper()
	credential, err := azidentity.NewClientSecretCredential(world.DefaultTenant, world.DefaultApplication, secret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: a.sdk, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

// toIMDS redirects requests to 169.254.169.254 to the emulator.
type toIMDS struct {
	host   string
	client *http.Client
}

func (r toIMDS) Do(request *http.Request) (*http.Response, error) {
	if request.URL.Host != "169.254.169.254" {
		return nil, errors.New("a request to " + request.URL.Host + ", which is not IMDS")
	}
	request.URL.Host = r.host
	return r.client.Do(request)
}

func (a *azure) managedIdentity(t *testing.T, id azidentity.ManagedIDKind) azcore.TokenCredential {
	t.Helper()
	imds, err := url.Parse(a.Endpoints().IMDS)
	if err != nil {
		t.Fatal(err)
	}
	options := a.sdk
	options.Transport = toIMDS{host: imds.Host, client: a.client}
	credential, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ClientOptions: options, ID: id,
	})
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

// token returns a token for this emulator's ARM. The resource is unique to the emulator, because
// MSAL caches managed identities' tokens for the whole process by resource, and tests would
// otherwise get each other's tokens.
func (a *azure) token(t *testing.T, credential azcore.TokenCredential) (string, error) {
	t.Helper()
	token, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{a.Endpoints().ARM + "/.default"}})
	return token.Token, err
}

// TestSDKAttach attaches and detaches an identity of a scale set and a VM, as a controller does.
func TestSDKAttach(t *testing.T) {
	a := start(t, func(d *world.Document) {
		d.Settings.ARM.UpdateDuration = world.Duration(20 * time.Millisecond)
		d.Settings.ARM.RetryAfter = 0 // otherwise the SDK's loop waits that long
	})
	options := &azarm.ClientOptions{ClientOptions: a.sdk}
	sets, err := armcompute.NewVirtualMachineScaleSetsClient(world.DefaultSubscription, a.secretCredential(t, secret), options)
	if err != nil {
		t.Fatal(err)
	}
	poller, err := sets.BeginUpdate(t.Context(), "demo", "vmss-0", armcompute.VirtualMachineScaleSetUpdate{
		Identity: &armcompute.VirtualMachineScaleSetIdentity{
			Type:                   to.Ptr(armcompute.ResourceIdentityTypeUserAssigned),
			UserAssignedIdentities: map[string]*armcompute.UserAssignedIdentitiesValue{identity: {}},
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := poller.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := *set.Properties.ProvisioningState; got != "Succeeded" {
		t.Errorf("provisioning state %s", got)
	}
	for id, entry := range set.Identity.UserAssignedIdentities {
		if *entry.ClientID != "44444444-4444-4444-8444-444444440001" {
			t.Errorf("%s has client ID %s", id, *entry.ClientID)
		}
	}
	if len(set.Identity.UserAssignedIdentities) != 1 {
		t.Errorf("identities %v", set.Identity.UserAssignedIdentities)
	}

	vms, err := armcompute.NewVirtualMachinesClient(world.DefaultSubscription, a.secretCredential(t, secret), options)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := vms.BeginUpdate(t.Context(), "demo", "vm-0", armcompute.VirtualMachineUpdate{
		Identity: &armcompute.VirtualMachineIdentity{Type: to.Ptr(armcompute.ResourceIdentityTypeNone)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	after, err := vm.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if after.Identity != nil {
		t.Errorf("identity %v after None", after.Identity)
	}
}

// TestSDKErrors checks that the SDK understands refusals.
func TestSDKErrors(t *testing.T) {
	a := start(t, nil)
	sets, err := armcompute.NewVirtualMachineScaleSetsClient(world.DefaultSubscription, a.secretCredential(t, secret),
		&azarm.ClientOptions{ClientOptions: a.sdk})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sets.Get(t.Context(), "demo", "nobody", nil)
	var refused *azcore.ResponseError
	if !errors.As(err, &refused) || refused.ErrorCode != "ResourceNotFound" || refused.StatusCode != 404 {
		t.Errorf("a scale set that is not there: %v", err)
	}
	if _, err := a.token(t, a.secretCredential(t, "wrong")); err == nil {
		t.Error("a wrong secret got a token")
	}
}

func TestSDKManagedIdentity(t *testing.T) {
	a := start(t, func(d *world.Document) {
		d.VirtualMachines[0].Identities = append(d.VirtualMachines[0].Identities, d.Identities[1].ResourceID)
	})
	tests := []struct {
		name   string
		id     azidentity.ManagedIDKind
		client string // of the token, or empty if refused
	}{
		{"none named, two there", nil, ""},
		{"client ID", azidentity.ClientID("44444444-4444-4444-8444-444444440001"), "44444444-4444-4444-8444-444444440001"},
		{"object ID", azidentity.ObjectID("55555555-5555-4555-8555-555555550000"), "44444444-4444-4444-8444-444444440000"},
		{"resource ID", azidentity.ResourceID(identity), "44444444-4444-4444-8444-444444440001"},
		{"not on the VM", azidentity.ClientID("44444444-4444-4444-8444-444444440002"), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, err := a.token(t, a.managedIdentity(t, test.id))
			if (err == nil) != (test.client != "") {
				t.Fatalf("error %v", err)
			}
			if err == nil {
				if got := a.verified(t, text)["appid"]; got != test.client {
					t.Errorf("token for %v, want %s", got, test.client)
				}
			}
		})
	}
}

// TestSDKCertificate signs in with a certificate as MSAL does.
func TestSDKCertificate(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "app"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, func(d *world.Document) {
		d.Applications[0].Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	})
	credential, err := azidentity.NewClientCertificateCredential(world.DefaultTenant, world.DefaultApplication,
		[]*x509.Certificate{cert}, key, &azidentity.ClientCertificateCredentialOptions{
			ClientOptions: a.sdk, DisableInstanceDiscovery: true, SendCertificateChain: true,
		})
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.token(t, credential)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.verified(t, text)["appidacr"]; got != "2" {
		t.Errorf("appidacr %v", got)
	}
}

// TestSDKDiscovery makes MSAL look up the authority, as it does for unknown hosts.
func TestSDKDiscovery(t *testing.T) {
	a := start(t, nil)
	for path, want := range map[string]string{
		"/.well-known/openid-configuration":      a.Endpoints().Entra + "/" + world.DefaultTenant + "/",
		"/v2.0/.well-known/openid-configuration": a.Endpoints().Entra + "/" + world.DefaultTenant + "/v2.0",
	} {
		var document struct{ Issuer string }
		a.get(t, a.Endpoints().Entra+"/"+world.DefaultTenant+path, &document)
		if diff := cmp.Diff(want, document.Issuer); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func (a *azure) get(t *testing.T, address string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", address, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
