// Package kubenet detects the network plugin kubenet. On its bridge, pods can send with each
// other's addresses (CVE-2021-1677), and the agent identifies a pod by its address.
package kubenet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/ascii"
)

// plugin is the name of the plugin. It is also the name of the network on nodes whose kubelet no
// longer has the plugin (see networkOf).
const plugin = "kubenet"

// bridge is the name of the bridge that all pods are attached to. The kubelet's plugin used it, and
// so does the configuration that AKS writes for containerd.
const bridge = "cbr0"

// Detector looks for kubenet on a node.
type Detector struct {
	// KubeletConfig is the file with the kubelet's flags. It need not exist.
	KubeletConfig string
	// CNIConfigDir is the folder with the configuration of the network plugin. If it is empty, only
	// the bridge is looked for: the folder also has the plugin's credentials.
	CNIConfigDir string
	// SkipUnreadable skips files that this process may not read: an agent without privileges cannot
	// know what is in them. The bridge is looked for nevertheless.
	SkipUnreadable bool
}

// Check returns an error if the node uses kubenet.
func (d Detector) Check() error {
	where, err := d.find()
	if err != nil {
		return err
	}
	if where != "" {
		return fmt.Errorf("%s shows that this node uses kubenet, whose pods can take each other's addresses and thereby identities: "+
			"use another network plugin (Azure CNI), or drop the capability NET_RAW from all pods and run with --allow-network-plugin-kubenet", where)
	}
	return nil
}

// Watch checks at each interval until ctx ends, because an agent may start before its node's
// network plugin has written its configuration. It returns the error of Check.
func (d Detector) Watch(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := d.Check(); err != nil {
			return err
		}
	}
}

// find returns the file or the interface that shows kubenet, "" if there is none.
func (d Detector) find() (where string, err error) {
	text, err := os.ReadFile(d.KubeletConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist), d.skips(err): // current kubelets need no such file
	case err != nil:
		return "", fmt.Errorf("look for kubenet (--kubelet-config): %w", err)
	case strings.Contains(strings.ReplaceAll(string(text), "network-plugin ", "network-plugin="), "--network-plugin="+plugin):
		return d.KubeletConfig, nil
	}
	if d.CNIConfigDir != "" {
		file, network, err := d.networkOf(d.CNIConfigDir)
		if err != nil || network == plugin {
			return file, err
		}
	}
	return findBridge()
}

func findBridge() (string, error) {
	link, err := netlink.LinkByName(bridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for kubenet's bridge %s: %w", bridge, err)
	case link.Type() != "bridge":
		return "", nil
	}
	return "the bridge " + bridge, nil
}

// skips reports whether an error is about a file that is skipped.
func (d Detector) skips(err error) bool { return d.SkipUnreadable && errors.Is(err, fs.ErrPermission) }

// networkOf returns the network that the container runtime gives pods: that of the first valid
// configuration in the folder, ordered by name, as containerd and CRI-O choose it. Kubelets since
// 1.24 do not have kubenet. AKS and others attach pods to a bridge instead, by a configuration
// whose network is named kubenet.
func (d Detector) networkOf(dir string) (file, network string, err error) {
	entries, err := os.ReadDir(dir) // ordered by name
	if errors.Is(err, fs.ErrNotExist) || d.skips(err) {
		return "", "", nil // there is no plugin yet
	}
	if err != nil {
		return "", "", fmt.Errorf("look for kubenet (--cni-config-dir): %w", err)
	}
	for _, entry := range entries {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		text, err := os.ReadFile(path)
		if d.skips(err) {
			continue
		}
		if err != nil {
			return "", "", fmt.Errorf("look for kubenet (--cni-config-dir): %w", err)
		}
		if network := networkName(text); network != "" {
			return path, network, nil
		}
	}
	return "", "", nil
}

// networkName returns the name of the network in a CNI configuration or configuration list. It
// returns kubenet if a plugin has that type, and "" if the text is invalid.
func networkName(text []byte) string {
	var list struct {
		Name, Type string
		Plugins    []struct{ Type string }
	}
	if err := json.Unmarshal(text, &list); err != nil || list.Type == "" && len(list.Plugins) == 0 {
		return ""
	}
	if list.Type == plugin {
		return plugin
	}
	for _, p := range list.Plugins {
		if p.Type == plugin {
			return plugin
		}
	}
	if list.Name == "" {
		return "unnamed"
	}
	return ascii.ToLower(list.Name)
}
