package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrefetchResources(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		want    []string
		refused string
	}{
		{name: "nothing said", want: []string{publicARM}},
		{name: "another cloud", args: []string{"--cloud=AzureUSGovernmentCloud"}, want: []string{"https://management.usgovcloudapi.net/"}},
		{name: "none", args: []string{"--prefetch-resources="}},
		{name: "several", args: []string{"--prefetch-resources=https://vault.azure.net, https://storage.azure.com/,"}, want: []string{"https://vault.azure.net", "https://storage.azure.com/"}},
		{name: "separated by blanks", args: []string{"--prefetch-resources=https://vault.azure.net https://storage.azure.com/"}, refused: "commas"},
		{name: "too many", args: []string{"--prefetch-resources=a,b,c,d,e,f,g,h,i"}, refused: "at most 8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := &options{}
			err := o.parse(append([]string{"--node=n1"}, tt.args...), noEnv, &bytes.Buffer{})
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, o.prefetch.resources); diff != "" {
				t.Error(diff)
			}
		})
	}
}
