package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClouds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cloud.json")
	if err := os.WriteFile(file, []byte(`{"name":"AzureStackCloud","activeDirectoryEndpoint":"https://adfs.local.example/adfs"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"activeDirectoryEndpoint":"http://adfs.local.example"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, args       string
		env              []string
		authority, cloud string
		says             string // of an error
	}{
		{name: "default", authority: "https://login.microsoftonline.com", cloud: "AzurePublicCloud"},
		{name: "government", args: "--cloud=azureusgovernment", authority: "https://login.microsoftonline.us", cloud: "AzureUSGovernmentCloud"},
		{name: "China", env: []string{"CLOUD", "AzureChinaCloud"}, authority: "https://login.chinacloudapi.cn", cloud: "AzureChinaCloud"},
		{name: "flag before environment", args: "--cloud=AzurePublicCloud", env: []string{"CLOUD", "AzureChinaCloud"}, authority: "https://login.microsoftonline.com", cloud: "AzurePublicCloud"},
		{name: "stack", args: "--cloud=AzureStackCloud", env: []string{"AZURE_ENVIRONMENT_FILEPATH", file}, authority: "https://adfs.local.example", cloud: "AzureStackCloud"},
		{name: "authority", args: "--authority-host=https://Login.example:8443/", authority: "https://login.example:8443", cloud: "AzurePublicCloud"},
		{name: "authority of the environment", env: []string{"AZURE_AUTHORITY_HOST", "https://login.example/"}, authority: "https://login.example", cloud: "AzurePublicCloud"},
		{name: "authority instead of a file", args: "--cloud=AzureStackCloud --authority-host=https://login.example", authority: "https://login.example", cloud: "AzureStackCloud"},
		{name: "stack without a file", args: "--cloud=AzureStackCloud", says: "AZURE_ENVIRONMENT_FILEPATH"},
		{name: "stack, no such file", args: "--cloud=AzureStackCloud", env: []string{"AZURE_ENVIRONMENT_FILEPATH", "/nowhere"}, says: "/nowhere"},
		{name: "stack, http", args: "--cloud=AzureStackCloud", env: []string{"AZURE_ENVIRONMENT_FILEPATH", bad}, says: "https"},
		{name: "unknown", args: "--cloud=Azure", says: "AzureUSGovernmentCloud"},
		{name: "http", args: "--authority-host=http://login.example", says: "https"},
		{name: "broker namespace", args: "--broker-namespace=a.b", says: "--broker-namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := &options{}
			err := o.parse(append([]string{"--node=n1"}, strings.Fields(tt.args)...), env(tt.env...), &bytes.Buffer{})
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("got %v, want %q", err, tt.says)
				}
				return
			}
			if err != nil || o.entra.authority.String() != tt.authority || o.entra.cloud != tt.cloud {
				t.Errorf("%s in %s, %v", o.entra.authority, o.entra.cloud, err)
			}
		})
	}
}
