package cloud_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/cloud"
)

func TestFind(t *testing.T) {
	public := cloud.Cloud{
		Name: "AzurePublicCloud", Authority: "https://login.microsoftonline.com/", ResourceManager: "https://management.azure.com",
		Audience: "https://management.core.windows.net/", ExchangeAudience: "api://AzureADTokenExchange",
	}
	government := cloud.Cloud{
		Name: "AzureUSGovernmentCloud", Authority: "https://login.microsoftonline.us/", ResourceManager: "https://management.usgovcloudapi.net",
		Audience: "https://management.core.usgovcloudapi.net/", ExchangeAudience: "api://AzureADTokenExchangeUSGov",
	}
	china := cloud.Cloud{
		Name: "AzureChinaCloud", Authority: "https://login.chinacloudapi.cn/", ResourceManager: "https://management.chinacloudapi.cn",
		Audience: "https://management.core.chinacloudapi.cn/", ExchangeAudience: "api://AzureADTokenExchangeChina",
	}
	stack := func(authority, manager, audience string) cloud.Cloud {
		return cloud.Cloud{Name: "AzureStackCloud", Authority: authority, ResourceManager: manager, Audience: audience}
	}
	for _, tt := range []struct {
		name, cloud, file string
		want              cloud.Cloud
	}{
		{"default", "", "", public},
		{"letter case", "AZUREPUBLICCLOUD", "", public},
		{"short", "AzureCloud", "", public},
		{"government", " AzureUSGovernmentCloud\n", "", government},
		{"government, short", "AzureUSGovernment", "", government},
		{"China", "azurechinacloud", "", china},
		{
			"stack", "AzureStackCloud", `{"name":"AzureStackCloud","managementPortalURL":"https://portal.local/",
				"resourceManagerEndpoint":"https://management.local.azurestack.external/","activeDirectoryEndpoint":"https://login.local/",
				"tokenAudience":"https://management.azurestackci.onmicrosoft.com/guid","resourceIdentifiers":{"graph":"https://graph.local/"}}`,
			stack("https://login.local/", "https://management.local.azurestack.external", "https://management.azurestackci.onmicrosoft.com/guid"),
		},
		{
			"stack, AD FS", "AZURESTACKCLOUD", `{"resourceManagerEndpoint":"https://arm.local","activeDirectoryEndpoint":"https://adfs.local/adfs",
				"tokenAudience":"N/A","serviceManagementEndpoint":"https://sm.local/"}`,
			stack("https://adfs.local/", "https://arm.local", "https://sm.local/"),
		},
		{
			"stack, no audience", "AzureStackCloud", "\ufeff" + `{"resourceManagerEndpoint":"https://127.0.0.1:8443/","activeDirectoryEndpoint":"https://127.0.0.1:8444"}`,
			stack("https://127.0.0.1:8444/", "https://127.0.0.1:8443", "https://127.0.0.1:8443/"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := ""
			if tt.file != "" {
				path = filepath.Join(t.TempDir(), "environment.json")
				if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := cloud.Find(tt.cloud, path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := got.Validate(); err != nil || got.Private() != (tt.file != "") {
				t.Errorf("Validate: %v, private: %v", err, got.Private())
			}
		})
	}
}

func TestOfAuthority(t *testing.T) {
	for host, want := range map[string]string{
		"login.microsoftonline.com": cloud.Public, "sts.windows.net": cloud.Public, "Login.MicrosoftOnline.us": cloud.USGovernment,
		"login.partner.microsoftonline.cn": cloud.China, "login.microsoftonline.com.evil.example": "", "": "",
	} {
		if got, ok := cloud.OfAuthority(host); got.Name != want || ok != (want != "") {
			t.Errorf("%q is in %q, want %q", host, got.Name, want)
		}
	}
	for _, host := range cloud.AuthorityHosts() {
		if c, ok := cloud.OfAuthority(host); !ok || !slices.Contains(cloud.Names(), c.Name) {
			t.Errorf("%s is in no cloud", host)
		}
	}
}
