// Package cni is the network plugin of nodes with eBPF host routing. It runs after the plugin that
// has connected a pod, and makes the node forward the pod's packets past netfilter.
//
// It implements the Container Network Interface: a configuration on standard input, the command in
// the environment, and a result or an error on standard output.
package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/hostrouting"
)

// config is what the plugin reads.
type config struct {
	CNIVersion string         `json:"cniVersion"`
	Uplink     string         `json:"uplink"`
	Except     []netip.Prefix `json:"except"`
	// PrevResult is the result of the plugin before.
	PrevResult json.RawMessage `json:"prevResult"`
}

// Run carries out one command of the runtime. An error is also written to the output, as the
// interface wants it.
func Run(command string, in io.Reader, out io.Writer) error {
	result, version, err := run(command, in)
	if err != nil {
		const ofPlugin = 100 // lower codes have a meaning in the interface
		result = map[string]any{"cniVersion": version, "code": ofPlugin, "msg": err.Error()}
	}
	if result == nil {
		return err
	}
	if encodeErr := json.NewEncoder(out).Encode(result); encodeErr != nil {
		return fmt.Errorf("write the plugin's result: %w", encodeErr)
	}
	return err
}

func run(command string, in io.Reader) (result any, version string, err error) {
	var c config
	if err := json.NewDecoder(in).Decode(&c); err != nil {
		return nil, "1.0.0", fmt.Errorf("read the plugin's configuration: %w", err)
	}
	switch command {
	case "VERSION":
		return map[string]any{"cniVersion": "1.0.0", "supportedVersions": []string{"0.4.0", "1.0.0"}}, c.CNIVersion, nil
	case "ADD":
		return c.PrevResult, c.CNIVersion, c.add()
	default: // the program goes with the pod's link
		return nil, c.CNIVersion, nil
	}
}

// add attaches the program to the node's end of the pod's link.
func (c config) add() error {
	var before struct {
		Interfaces []struct{ Name, Sandbox string }
	}
	if err := json.Unmarshal(c.PrevResult, &before); err != nil {
		return fmt.Errorf("read the result of the plugin before: %w", err)
	}
	i := slices.IndexFunc(before.Interfaces, func(i struct{ Name, Sandbox string }) bool { return i.Sandbox == "" })
	if i < 0 {
		return fmt.Errorf("the plugin before made no interface on the node: %s", c.PrevResult)
	}
	port, err := netlink.LinkByName(before.Interfaces[i].Name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", before.Interfaces[i].Name, err)
	}
	uplink, err := netlink.LinkByName(c.Uplink)
	if err != nil {
		return fmt.Errorf("find uplink %s: %w", c.Uplink, err)
	}
	program, err := hostrouting.Load(hostrouting.Config{Uplink: uplink.Attrs().Index, Except: c.Except})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()
	return hostrouting.Attach(port.Attrs().Index, program)
}
