// Looking for kubenet, whose pods can take each other's addresses.

package main

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

// kubenet is the name of the plugin, and of the network that nodes without it in the kubelet have (see networkOf).
const kubenet = "kubenet"

// kubenetBridge is the bridge of all pods on a node with kubenet: the kubelet's plugin called it so, and so do the
// configurations that containerd gets on nodes of AKS.
const kubenetBridge = "cbr0"

// checkKubenet refuses a node with kubenet: on its bridge, pods can send with
// each other's addresses (CVE-2021-1677), and the address is what proves a pod.
func (o *nodeOptions) checkKubenet() error {
	if o.allowKubenet {
		return nil
	}
	where, err := o.findKubenet()
	if err != nil {
		return err
	}
	if where != "" {
		return fmt.Errorf("%s says that this node uses kubenet, whose pods can take each other's addresses and thereby identities: "+
			"use another network plugin (Azure CNI), or take away the capability NET_RAW from pods and run with --allow-network-plugin-kubenet", where)
	}
	return nil
}

// findKubenet returns the file or the interface that shows it, "" without any.
func (o *nodeOptions) findKubenet() (where string, err error) {
	text, err := os.ReadFile(o.kubeletConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist): // kubelets of today need not have such a file
	case err != nil:
		return "", fmt.Errorf("look for kubenet (--kubelet-config): %w", err)
	case strings.Contains(strings.ReplaceAll(string(text), "network-plugin ", "network-plugin="), "--network-plugin="+kubenet):
		return o.kubeletConfig, nil
	}
	if o.cniConfigDir != "" {
		file, network, err := networkOf(o.cniConfigDir)
		if err != nil || network == kubenet {
			return file, err
		}
	}
	return findKubenetBridge()
}

// findKubenetBridge returns the name of the node's kubenet bridge, "" without one. It needs no file of the node: the
// folder of the network plugins' configuration also holds their credentials.
func findKubenetBridge() (string, error) {
	link, err := netlink.LinkByName(kubenetBridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for kubenet's bridge %s: %w", kubenetBridge, err)
	case link.Type() != "bridge":
		return "", nil
	}
	return "the bridge " + kubenetBridge, nil
}

// networkOf reads which network the container runtime gives pods: that of the first configuration in the folder, in the
// order of names, that makes sense (containerd's and CRI-O's rule). Kubelets since 1.24 have no kubenet; nodes that AKS and
// others call so have a bridge that containerd writes a configuration for, whose network is named kubenet.
func networkOf(dir string) (file, network string, err error) {
	entries, err := os.ReadDir(dir) // in the order of names
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil // no plugin has come yet
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
		if err != nil {
			return "", "", fmt.Errorf("look for kubenet (--cni-config-dir): %w", err)
		}
		if network := networkName(text); network != "" {
			return path, network, nil
		}
	}
	return "", "", nil
}

// networkName is the name of the network in a configuration or a list of them, kubenet where a plugin has that type, and
// empty where the text is neither.
func networkName(text []byte) string {
	var list struct {
		Name, Type string
		Plugins    []struct{ Type string }
	}
	if err := json.Unmarshal(text, &list); err != nil || list.Type == "" && len(list.Plugins) == 0 {
		return ""
	}
	if list.Type == kubenet {
		return kubenet
	}
	for _, plugin := range list.Plugins {
		if plugin.Type == kubenet {
			return kubenet
		}
	}
	if list.Name == "" {
		return "unnamed"
	}
	return ascii.ToLower(list.Name)
}

// watchKubenet looks again and again: an agent may start before its node's network plugin does, and the plugin writes its
// configuration then.
func (o *nodeOptions) watchKubenet(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := o.checkKubenet(); err != nil {
			return err
		}
	}
}
