// Package azure reads which Azure a cluster runs in and how podid signs in to it: the cloud config
// (azure.json, or the environment) and the credential, which follows changes of the file.
package azure

// The cloud config: where it comes from, what it must hold.

import (
	"errors"
	"fmt"
	"strings"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/cloud"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/secretvalue"
)

// Config is a complete cloud config. Load returns no incomplete one.
type Config struct {
	Cloud cloud.Cloud
	// TenantID is the Entra tenant of the service principal; "adfs" when AD FS signs in. Empty with
	// a managed identity.
	TenantID string
	// SubscriptionID, ResourceGroup and VMType (standard or vmss) describe the cluster. They are only
	// for display and may be empty: nodes state their own subscription, group and kind in their
	// provider IDs.
	SubscriptionID string
	ResourceGroup  string
	VMType         string

	// ClientID and ClientSecret are the service principal; empty with a managed identity.
	ClientID     string
	ClientSecret observe.Secret

	// ManagedIdentity selects an identity of the machine: the one with the client ID or resource ID in
	// UserAssignedIdentityID, or the system-assigned one if that is empty.
	ManagedIdentity        bool
	UserAssignedIdentityID string
}

// adfsTenant is the tenant ID that represents AD FS, which has no tenants.
const adfsTenant = "adfs"

// msi is what AKS writes for aadClientId and aadClientSecret when the cluster signs in with a
// managed identity.
const msi = "msi"

// settings are the relevant fields of azure.json. A real file has dozens more for the cloud
// provider.
type settings struct {
	Cloud                       string `json:"cloud"`
	TenantID                    string `json:"tenantId"`
	SubscriptionID              string `json:"subscriptionId"`
	ResourceGroup               string `json:"resourceGroup"`
	VMType                      string `json:"vmType"`
	AADClientID                 string `json:"aadClientId"`
	AADClientSecret             string `json:"aadClientSecret"`
	UseManagedIdentityExtension bool   `json:"useManagedIdentityExtension"`
	UserAssignedIdentityID      string `json:"userAssignedIdentityID"`
}

// Load reads the cloud config from the file (JSON or YAML) or, if path is empty, from the
// environment (CLOUD, TENANT_ID, SUBSCRIPTION_ID, RESOURCE_GROUP, VM_TYPE, CLIENT_ID,
// CLIENT_SECRET, USE_MSI, USER_ASSIGNED_MSI_CLIENT_ID). Errors name all missing fields and never
// contain any of the file's content.
func Load(path string, getenv func(string) string) (Config, error) {
	if path == "" {
		c, err := fromEnvironment(getenv).config(getenv(cloud.EnvironmentFilepath), inEnvironment())
		if err != nil {
			return Config{}, fmt.Errorf("read cloud config from the environment (no file was named): %w", err)
		}
		return c, nil
	}
	var s settings
	if err := readInto(path, "mount the node's azure.json there, or name no file and set the environment instead", &s); err != nil {
		return Config{}, fmt.Errorf("read cloud config %s: %w", path, err)
	}
	c, err := s.config(getenv(cloud.EnvironmentFilepath), inFile())
	if err != nil {
		return Config{}, fmt.Errorf("read cloud config %s: %w", path, err)
	}
	return c, nil
}

// fromEnvironment reads the settings that the secret aadpodidentity-admin-secret puts into the
// environment.
func fromEnvironment(getenv func(string) string) settings {
	return settings{
		Cloud:                       getenv("CLOUD"),
		TenantID:                    getenv("TENANT_ID"),
		SubscriptionID:              getenv("SUBSCRIPTION_ID"),
		ResourceGroup:               getenv("RESOURCE_GROUP"),
		VMType:                      getenv("VM_TYPE"),
		AADClientID:                 getenv("CLIENT_ID"),
		AADClientSecret:             getenv("CLIENT_SECRET"),
		UseManagedIdentityExtension: ascii.EqualFold(strings.TrimSpace(getenv("USE_MSI")), "true"),
		UserAssignedIdentityID:      getenv("USER_ASSIGNED_MSI_CLIENT_ID"),
	}
}

// names are the user-visible names of the settings, for errors.
type names struct{ tenant, clientID, clientSecret, managedIdentity string }

// inFile and inEnvironment return the names in the two places.
func inFile() names {
	return names{"tenantId", "aadClientId", "aadClientSecret", "useManagedIdentityExtension"}
}

func inEnvironment() names { return names{"TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "USE_MSI"} }

// config checks the settings and resolves the cloud. It trims values, because files and secrets
// often end with a newline.
func (s settings) config(environmentFile string, called names) (Config, error) {
	where, cloudErr := findCloud(s.Cloud, environmentFile)
	c := Config{
		Cloud:          where,
		SubscriptionID: strings.TrimSpace(s.SubscriptionID),
		ResourceGroup:  strings.TrimSpace(s.ResourceGroup),
		VMType:         ascii.ToLower(strings.TrimSpace(s.VMType)),
	}
	if s.UseManagedIdentityExtension || ascii.EqualFold(strings.TrimSpace(s.AADClientID), msi) {
		c.ManagedIdentity = true
		c.UserAssignedIdentityID = strings.TrimSpace(s.UserAssignedIdentityID)
		return c, cloudErr
	}
	c.TenantID = strings.TrimSpace(s.TenantID)
	if ascii.EqualFold(c.TenantID, adfsTenant) {
		c.TenantID = adfsTenant
	}
	c.ClientID = strings.TrimSpace(s.AADClientID)
	secret, err := secretvalue.ClientSecret([]byte(s.AADClientSecret))
	if err != nil {
		return Config{}, errors.Join(cloudErr, fmt.Errorf("%s: %w, which is not sent: put the client secret's value there", called.clientSecret, err))
	}
	c.ClientSecret = observe.NewSecret(secret)
	if err := errors.Join(cloudErr, c.complete(called)); err != nil {
		return Config{}, err
	}
	return c, nil
}

// findCloud returns the cloud of that name, with endpoints that are safe to send secrets to.
func findCloud(name, environmentFile string) (cloud.Cloud, error) {
	found, err := cloud.Find(name, environmentFile)
	if err != nil {
		return cloud.Cloud{}, err
	}
	if err := found.Validate(); err != nil {
		return cloud.Cloud{}, fmt.Errorf("read cloud environment %s (named by %s): %w", environmentFile, cloud.EnvironmentFilepath, err)
	}
	return found, nil
}

// Endpoints returns the cloud in the form that the clients of the Azure SDK need.
func (c Config) Endpoints() azcloud.Configuration {
	return azcloud.Configuration{
		ActiveDirectoryAuthorityHost: c.Cloud.Authority,
		Services: map[azcloud.ServiceName]azcloud.ServiceConfiguration{
			azcloud.ResourceManager: {Endpoint: c.Cloud.ResourceManager, Audience: c.Cloud.Audience},
		},
	}
}

// complete returns an error with all missing settings of a service principal.
func (c Config) complete(called names) error {
	var missing []string
	for _, field := range []struct{ name, value string }{
		{called.tenant, c.TenantID}, {called.clientID, c.ClientID}, {called.clientSecret, c.ClientSecret.Reveal()},
	} {
		if field.value == "" {
			missing = append(missing, field.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s missing: a service principal needs them all; set %s to true to sign in with a managed identity instead",
			strings.Join(missing, ", "), called.managedIdentity)
	}
	if !validTenant(c.TenantID) {
		return fmt.Errorf("%s is neither a tenant ID (a GUID), nor a domain, nor %q", called.tenant, adfsTenant)
	}
	return nil
}

// validTenant reports whether the tenant is usable as a segment of the authority's URL.
func validTenant(tenant string) bool {
	return strings.IndexFunc(tenant, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.'
	}) < 0
}
