package azure

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/cloud"
	"github.com/podid-io/podid/internal/observe"
)

// put writes a file and returns its path.
func put(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "azure.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// env returns a getenv function for these variables.
func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

const (
	principal = `"tenantId": "t", "aadClientId": "c", "aadClientSecret": "hunter2"`
	aksFile   = `{"cloud":"AzurePublicCloud","tenantId":"t","subscriptionId":"s","aadClientId":"msi","aadClientSecret":"msi","resourceGroup":"MC_rg","location":"westeurope","vmType":"vmss",
"subnetName":"aks-subnet","securityGroupName":"nsg","vnetName":"vnet","routeTableName":"","primaryScaleSetName":"pool","cloudProviderBackoff":true,"cloudProviderBackoffRetries":6,
"cloudProviderBackoffJitter":1.5,"useManagedIdentityExtension":true,"userAssignedIdentityID":"88888888-1111-2222-3333-444444444444","useInstanceMetadata":true,"loadBalancerSku":"Standard",
"excludeMasterFromStandardLB":true,"providerVaultName":"","maximumLoadBalancerRuleCount":250,"networkProfile":{"a":[1,2]}}`
)

func publicCloud(t *testing.T) cloud.Cloud {
	t.Helper()
	c, ok := cloud.Named(cloud.Public)
	if !ok {
		t.Fatal("no public cloud")
	}
	return c
}

func TestLoad(t *testing.T) {
	service := Config{Cloud: publicCloud(t), TenantID: "t", ClientID: "c", ClientSecret: observe.NewSecret("hunter2")}
	for _, tt := range []struct {
		name, file string
		getenv     func(string) string
		want       Config
	}{
		{name: "service principal", file: "{" + principal + "}", want: service},
		{name: "byte order mark", file: "\xef\xbb\xbf{" + principal + "}\n", want: service},
		{name: "yaml", file: "tenantId: t\naadClientId: c\naadClientSecret: hunter2\n", want: service},
		{name: "trailing comma", file: "{" + principal + ",}", want: service},
		{name: "byte order mark in a value", file: `{"tenantId":"t","aadClientId":"c","aadClientSecret":"\ufeffhunter2 \r\n"}`, want: service},
		{name: "line ends in values", file: `{"tenantId":"t\n","aadClientId":" c","aadClientSecret":"hunter2\r\n"}`, want: service},
		{name: "aks", file: aksFile, want: Config{
			Cloud: publicCloud(t), SubscriptionID: "s", ResourceGroup: "MC_rg", VMType: "vmss",
			ManagedIdentity: true, UserAssignedIdentityID: "88888888-1111-2222-3333-444444444444",
		}},
		{name: "system-assigned", file: `{"useManagedIdentityExtension": true}`, want: Config{Cloud: publicCloud(t), ManagedIdentity: true}},
		{name: "msi as client", file: `{"aadClientId": "MSI", "aadClientSecret": "msi"}`, want: Config{Cloud: publicCloud(t), ManagedIdentity: true}},
		{name: "adfs", file: `{"tenantId": "ADFS", "aadClientId": "c", "aadClientSecret": "hunter2"}`, want: Config{
			Cloud: publicCloud(t), TenantID: "adfs", ClientID: "c", ClientSecret: observe.NewSecret("hunter2"),
		}},
		{name: "environment", getenv: env("CLOUD", "AzurePublicCloud", "TENANT_ID", "t", "SUBSCRIPTION_ID", "s", "RESOURCE_GROUP", "rg", "VM_TYPE", "Standard", "CLIENT_ID", "c", "CLIENT_SECRET", "hunter2\n"), want: Config{
			Cloud: publicCloud(t), TenantID: "t", SubscriptionID: "s", ResourceGroup: "rg", VMType: "standard", ClientID: "c", ClientSecret: observe.NewSecret("hunter2"),
		}},
		{name: "environment, msi", getenv: env("USE_MSI", "True", "USER_ASSIGNED_MSI_CLIENT_ID", "u"), want: Config{Cloud: publicCloud(t), ManagedIdentity: true, UserAssignedIdentityID: "u"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := ""
			if tt.file != "" {
				path = put(t, tt.file)
			}
			if tt.getenv == nil {
				tt.getenv = env()
			}
			have, err := Load(path, tt.getenv)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, have); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
		})
	}
}

// TestLoadBad: each error says what to do, and none contains the file's content.
func TestLoadBad(t *testing.T) {
	for _, tt := range []struct{ name, file, says string }{
		{"empty", " \n", "the file is empty"},
		{"cut off", "{\n" + principal, "ends too early, at line 2"},
		{"syntax", "{\n" + principal + "\n\"x\": y: z}", "JSON syntax, line 3"},
		{"not yaml", "tenantId: t\naadClientSecret: hunter2: x\n", "neither JSON nor YAML, line 2"},
		{"yaml anchor", "aadClientSecret: *hunter2\n", "neither JSON nor YAML"},
		{"a list", "[\"hunter2\"]", "one object"},
		{"a word", "hunter2", "one object"},
		{"wrong bool", `{"useManagedIdentityExtension": "hunter2"}`, "field useManagedIdentityExtension must be true or false"},
		{"wrong text", `{"tenantId": 4711, "aadClientSecret": "hunter2"}`, "field tenantId must be text in quotes"},
		{"wrong yaml", "aadClientSecret: [hunter2]\n", "field aadClientSecret must be text in quotes"},
		{"nothing", "{}", "tenantId, aadClientId, aadClientSecret missing"},
		{"no secret", `{"tenantId":"t","aadClientId":"c"}`, "aadClientSecret missing: a service principal needs them all; set useManagedIdentityExtension"},
		{"cloud and fields", `{"cloud":"Mars","aadClientSecret":"hunter2"}`, "cloud \"Mars\" is unknown"},
		{"stack without file", `{"cloud":"AzureStackCloud",` + principal + `}`, "set AZURE_ENVIRONMENT_FILEPATH"},
		{"tenant is a path", `{"tenantId":"../x","aadClientId":"c","aadClientSecret":"hunter2"}`, "tenantId is neither"},
		{"private key", `{"tenantId":"t","aadClientId":"c","aadClientSecret":"-----BEGIN PRIVATE KEY-----\nhunter2\n"}`, "aadClientSecret: it holds a certificate or a private key, which is not sent"},
		{"huge", "{\"a\":\"" + strings.Repeat("x", sizeLimit) + "\"}", "larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := put(t, tt.file)
			_, err := Load(path, env())
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want it to say %q", err, tt.says)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") || strings.Contains(fmt.Sprint(err), "4711") {
				t.Errorf("%v repeats the file", err)
			}
		})
	}
	t.Run("both complaints", func(t *testing.T) {
		_, err := Load(put(t, `{"cloud":"Mars"}`), env())
		if text := fmt.Sprint(err); !strings.Contains(text, "Mars") || !strings.Contains(text, "missing") {
			t.Error(text)
		}
	})
	t.Run("no file", func(t *testing.T) {
		_, err := Load(filepath.Join(t.TempDir(), "none"), env())
		if !strings.Contains(fmt.Sprint(err), "mount the node's azure.json") {
			t.Error(err)
		}
	})
	t.Run("no file of endpoints", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "none")
		_, err := Load(put(t, `{"cloud":"AzureStackCloud",`+principal+`}`), env(cloud.EnvironmentFilepath, path))
		text := fmt.Sprint(err)
		if !strings.Contains(text, "endpoints of the cloud") || !strings.Contains(text, path) || strings.Contains(text, "the node's azure.json") {
			t.Error(err)
		}
	})
	t.Run("a folder", func(t *testing.T) {
		if _, err := Load(t.TempDir(), env()); err == nil {
			t.Error("no error")
		}
	})
	t.Run("environment", func(t *testing.T) {
		_, err := Load("", env("CLIENT_ID", "c"))
		if text := fmt.Sprint(err); !strings.Contains(text, "TENANT_ID, CLIENT_SECRET missing") || !strings.Contains(text, "USE_MSI") {
			t.Error(text)
		}
	})
}

func TestSecretIsMasked(t *testing.T) {
	c, err := Load(put(t, "{"+principal+"}"), env())
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s %q", c, c, c, c.ClientSecret, c.ClientSecret); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
}

func TestBadEnvironment(t *testing.T) {
	for _, tt := range []struct{ name, file, says string }{
		{"nothing", "{}", "resourceManagerEndpoint is missing"},
		{"half", `{"resourceManagerEndpoint":"https://arm"}`, "activeDirectoryEndpoint is missing"},
		{"http", `{"resourceManagerEndpoint":"http://arm","activeDirectoryEndpoint":"https://aad"}`, "resourceManagerEndpoint must be an https URL"},
		{"password", `{"resourceManagerEndpoint":"https://arm","activeDirectoryEndpoint":"https://u:hunter2@aad"}`, "activeDirectoryEndpoint must be an https URL"},
		{"malformed", "{", "malformed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(put(t, `{"cloud":"AzureStackCloud",`+principal+`}`), env(cloud.EnvironmentFilepath, put(t, tt.file)))
			if text := fmt.Sprint(err); !strings.Contains(text, tt.says) || strings.Contains(text, "hunter2") || !strings.Contains(text, cloud.EnvironmentFilepath) {
				t.Errorf("%s, want it to say %q", text, tt.says)
			}
		})
	}
}

// FuzzParse: no content causes a panic or an error that quotes it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("{" + principal + "}"))
	f.Add([]byte(aksFile))
	f.Add([]byte("a: *b\n"))
	f.Add([]byte("{\"aadClientSecret\": hunter2hunter2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const secret = "hunter2hunter2"
		var s settings
		if err := parse(append(append([]byte{}, data...), secret...), &s); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%v", err)
		}
	})
}
