// MIC with the real ARM client, against the emulator.

package model

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/emulator/arm/armtest"
	emulator "github.com/podid-io/podid/internal/emulator/world"
)

// emulatedARM is the emulator's ARM API without a network.
type emulatedARM struct {
	*armtest.ARM
	silent bool // no response has the headers with the remaining calls
}

func newEmulatedARM(t *testing.T, edit func(*emulator.Document)) *emulatedARM {
	t.Helper()
	return &emulatedARM{ARM: armtest.New(t, subscription, other, edit)}
}

// Do implements policy.Transporter.
func (e *emulatedARM) Do(req *http.Request) (*http.Response, error) {
	resp, err := e.ARM.Do(req)
	if err == nil && e.silent {
		maps.DeleteFunc(resp.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "X-Ms-Ratelimit-") })
	}
	return resp, err
}

// client returns MIC's client for this ARM.
func (e *emulatedARM) client(t *testing.T) *compute.Client {
	t.Helper()
	c, err := compute.New(compute.Options{
		Credential: &fake.TokenCredential{}, Transport: e,
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: "https://login.example/",
			Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
				cloud.ResourceManager: {Endpoint: "https://arm.example", Audience: "https://arm.example/"},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
