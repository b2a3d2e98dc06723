package cni

import (
	"strings"
	"testing"
)

// TestRun: what the runtime reads, without anything of the machine.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		name, command, config, want string
		fails                       bool
	}{
		{"version", "VERSION", `{"cniVersion":"1.0.0"}`, `"supportedVersions":["0.4.0","1.0.0"]`, false},
		{"a pod goes", "DEL", `{"cniVersion":"1.0.0"}`, "", false},
		{"no configuration", "ADD", "", `"msg":"read the plugin's configuration`, true},
		{"no plugin before", "ADD", `{"cniVersion":"0.4.0"}`, `"cniVersion":"0.4.0","code":100`, true},
		{
			"no interface on the node", "ADD", `{"cniVersion":"1.0.0","prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x"}]}}`,
			"no interface on the node", true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			err := Run(c.command, strings.NewReader(c.config), &out)
			if (err != nil) != c.fails || !strings.Contains(out.String(), c.want) || c.want == "" && out.String() != "" {
				t.Errorf("%v, output %s, want %s", err, out.String(), c.want)
			}
		})
	}
}
