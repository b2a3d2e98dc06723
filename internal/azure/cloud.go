package azure

// Which Azure: the endpoints of the public cloud, of the national ones, and of those described by a file.

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"github.com/podid-io/podid/internal/ascii"
)

// EnvironmentFilepath is the environment variable that names the file with the endpoints of an AzureStackCloud.
const EnvironmentFilepath = "AZURE_ENVIRONMENT_FILEPATH"

// Cloud is where Azure's services are.
type Cloud struct {
	// Name is the cloud's name as this package spells it, such as AzurePublicCloud.
	Name string
	// Endpoints are for the Azure SDK: Entra ID's authority and the resource manager with its audience.
	Endpoints cloud.Configuration
	// Private says that Entra ID does not know the authority (AzureStackCloud): it is trusted because the file says
	// so, and must not be looked up at login.microsoftonline.com first.
	Private bool
}

// stackCloud is the name of a cloud whose endpoints are in a file.
const stackCloud = "AzureStackCloud"

// known returns the well-known cloud of that name, in any letter case. The names are those of go-autorest's
// environments, which every azure.json uses, and the short ones that other tools write. The audiences are those the
// Azure SDK uses.
func known(name string) (Cloud, bool) {
	switch ascii.ToLower(name) {
	case "", "azurepubliccloud", "azurecloud":
		return public("AzurePublicCloud", "https://login.microsoftonline.com/",
			"https://management.azure.com", "https://management.core.windows.net/"), true
	case "azureusgovernmentcloud", "azureusgovernment":
		return public("AzureUSGovernmentCloud", "https://login.microsoftonline.us/",
			"https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net/"), true
	case "azurechinacloud":
		return public("AzureChinaCloud", "https://login.chinacloudapi.cn/",
			"https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn/"), true
	default:
		return Cloud{}, false
	}
}

// public is a cloud that Entra ID knows.
func public(name, authority, manager, audience string) Cloud {
	return Cloud{Name: name, Endpoints: endpoints(authority, manager, audience)}
}

// endpoints is the SDK's form of a cloud.
func endpoints(authority, manager, audience string) cloud.Configuration {
	return cloud.Configuration{
		ActiveDirectoryAuthorityHost: authority,
		Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: manager, Audience: audience},
		},
	}
}

// findCloud resolves a cloud's name. environmentFile is the path in AZURE_ENVIRONMENT_FILEPATH, wanted only for
// AzureStackCloud.
func findCloud(name, environmentFile string) (Cloud, error) {
	name = strings.TrimSpace(name)
	if c, ok := known(name); ok {
		return c, nil
	}
	if !ascii.EqualFold(name, stackCloud) {
		return Cloud{}, fmt.Errorf("cloud %q is unknown: use AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, "+
			"or %s with %s", shorten(name), stackCloud, EnvironmentFilepath)
	}
	if environmentFile == "" {
		return Cloud{}, fmt.Errorf("cloud %s needs its endpoints: set %s to the path of the JSON file that has them",
			stackCloud, EnvironmentFilepath)
	}
	return stackFrom(environmentFile)
}

// environment is the part we need of the file that AZURE_ENVIRONMENT_FILEPATH names: go-autorest's azure.Environment.
type environment struct {
	ResourceManagerEndpoint   string `json:"resourceManagerEndpoint"`
	ActiveDirectoryEndpoint   string `json:"activeDirectoryEndpoint"`
	TokenAudience             string `json:"tokenAudience"`
	ServiceManagementEndpoint string `json:"serviceManagementEndpoint"`
}

// stackFrom reads the endpoints of an AzureStackCloud.
func stackFrom(path string) (Cloud, error) {
	var env environment
	if err := readInto(path, "mount the file with the endpoints of the cloud there, or correct the path", &env); err != nil {
		return Cloud{}, fmt.Errorf("read cloud environment %s (named by %s): %w", path, EnvironmentFilepath, err)
	}
	c, err := env.cloud()
	if err != nil {
		return Cloud{}, fmt.Errorf("read cloud environment %s (named by %s): %w", path, EnvironmentFilepath, err)
	}
	return c, nil
}

// cloud checks the endpoints and makes the SDK's form of them, complaining about all of them at once.
func (e environment) cloud() (Cloud, error) {
	// go-autorest's clients ask for the service management endpoint, newer ones for the token audience.
	audience := e.ResourceManagerEndpoint
	for _, candidate := range []string{e.TokenAudience, e.ServiceManagementEndpoint} {
		if usable(candidate) {
			audience = candidate
			break
		}
	}
	if err := errors.Join(
		checkEndpoint("resourceManagerEndpoint", e.ResourceManagerEndpoint),
		checkEndpoint("activeDirectoryEndpoint", e.ActiveDirectoryEndpoint),
	); err != nil {
		return Cloud{}, err
	}
	return Cloud{
		Name:      stackCloud,
		Private:   true,
		Endpoints: endpoints(authority(e.ActiveDirectoryEndpoint), strings.TrimRight(e.ResourceManagerEndpoint, "/"), audience),
	}, nil
}

// usable reports whether an optional entry says anything; go-autorest writes N/A for what a cloud does not have.
func usable(s string) bool { return s != "" && !ascii.EqualFold(s, "N/A") }

// authority is the authority host of Entra ID or AD FS. Files for AD FS end it in /adfs, which the SDK adds itself:
// it is the tenant.
func authority(endpoint string) string {
	endpoint = strings.TrimRight(endpoint, "/")
	const adfs = "/" + adfsTenant
	if len(endpoint) > len(adfs) && ascii.EqualFold(endpoint[len(endpoint)-len(adfs):], adfs) {
		endpoint = endpoint[:len(endpoint)-len(adfs)]
	}
	return endpoint + "/"
}

// checkEndpoint admits https URLs with a host: secrets and tokens travel to them.
func checkEndpoint(field, value string) error {
	if value == "" {
		return fmt.Errorf("%s is missing", field)
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" {
		return fmt.Errorf("%s must be an https URL such as https://management.example.com/", field)
	}
	return nil
}

// shorten bounds what a wrong value can put into an error.
func shorten(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
