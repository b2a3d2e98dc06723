// How pods are connected to a node's network.

package node

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/podid-io/podid/internal/sandbox/network"
)

// HostRoutingPlugin is the name of podid's own network plugin; see package cni.
const HostRoutingPlugin = "podid-host-routing"

// HostRoutingScript is the content of that plugin's program: the runtime gives a plugin no
// arguments.
const HostRoutingScript = "#!/bin/sh\nexec " + BinDir + "/podid sandbox cni\n"

// CNIPlugins lists the programs that a data plane needs besides podid's own.
func CNIPlugins(plane network.Dataplane) []string {
	if _, ok := plane.Cilium(); ok {
		return []string{"loopback"}
	}
	if plane == network.Bridged {
		return []string{"bridge", "host-local", "loopback"}
	}
	return []string{"ptp", "host-local", "loopback"}
}

// CNIConfig returns a configuration that connects pods to the node by a data plane. There is no
// masquerading, so that programs on the node see the pod's own address, and no portmap plugin,
// which would need iptables. Cilium's agent writes its own configuration instead.
func CNIConfig(plane network.Dataplane, pods netip.Prefix) (string, error) {
	type object map[string]any
	ipam := object{"type": "host-local", "ranges": [][]object{{{"subnet": pods.String()}}}, "dataDir": "/var/lib/cni/networks"}
	plugins := []object{{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
		"ipam": ipam,
	}}
	if plane != network.Bridged {
		ipam["routes"] = []object{{"dst": "0.0.0.0/0"}}
		plugins = []object{{"type": "ptp", "ipMasq": false, "ipam": ipam}}
	}
	if plane == network.EBPF { // services need kube-proxy's rules, which are netfilter's
		plugins = append(plugins, object{"type": HostRoutingPlugin, "uplink": "eth0", "except": []string{network.ServiceCIDR}})
	}
	b, err := json.MarshalIndent(object{"cniVersion": "1.0.0", "name": "podid", "plugins": plugins}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write the CNI configuration: %w", err)
	}
	return string(b), nil
}
