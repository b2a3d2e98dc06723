// The programs, and which installed versions of them are good enough.

package programs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// kind describes a program: how it prints its version, which versions work, and where it comes from
// if the machine has none.
type kind struct {
	name string
	// ask are the arguments that make it print its version.
	ask []string
	// least is the lowest version that works; Kubernetes must have the pinned minor version
	// instead.
	least version
	// source is what it is built from; tree is its place inside Debian's packages if it is nil.
	source *source
	tree   string
}

// version is major, minor and patch.
type version [3]int

// kinds lists all programs.
//
// etcd: Kubernetes requires 3.4.31 or 3.5.13. An older one does not send progress notifications on
// request, and watches on quiet resources then hang. Debian 12 has 3.4.23.
// nft: kube-proxy requires 1.0.1 in its nftables mode.
var kinds = []kind{ //nolint:gochecknoglobals // a constant table
	{name: "kube-apiserver", ask: []string{"--version"}, source: kubernetes("kube-apiserver")},
	{name: "kubelet", ask: []string{"--version"}, source: kubernetes("kubelet")},
	{name: "kube-controller-manager", ask: []string{"--version"}, source: kubernetes("kube-controller-manager")},
	{name: "kube-scheduler", ask: []string{"--version"}, source: kubernetes("kube-scheduler")},
	{name: "kube-proxy", ask: []string{"--version"}, source: kubernetes("kube-proxy")},
	{name: "kubectl", ask: []string{"version", "--client"}, source: kubernetes("kubectl")},
	{
		name: "etcd", ask: []string{"--version"}, least: version{3, 5, 13},
		source: &source{folder: "etcd", pinned: "go.etcd.io/etcd/server/v3", pkg: "go.etcd.io/etcd/server/v3"},
	},
	{name: "containerd", ask: []string{"--version"}, least: version{1, 6}, tree: "usr/bin/containerd"},
	{name: "containerd-shim-runc-v2", ask: []string{"-v"}, least: version{1, 6}, tree: "usr/bin/containerd-shim-runc-v2"},
	{name: "ctr", ask: []string{"--version"}, least: version{1, 6}, tree: "usr/bin/ctr"},
	{name: "runc", ask: []string{"--version"}, least: version{1, 1}, tree: "usr/sbin/runc"},
	{name: "nft", ask: []string{"--version"}, least: version{1, 0, 1}, tree: "usr/sbin/nft"},
}

// version runs the program and returns the first version number that it prints, with the whole
// line.
func (k kind) version(ctx context.Context, file, libraries string) (v version, line string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, k.ask...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return version{}, "", fmt.Errorf("ask %s for its version: %w", file, err)
	}
	return parseVersion(string(out))
}

// parseVersion returns the first separate word of the form 1.2, 1.2.3 or v1.2.3, and its line.
func parseVersion(out string) (v version, line string, err error) {
	m := regexp.MustCompile(`(?m)^.*?(?:^|[ :])v?(\d+)\.(\d+)(?:\.(\d+))?.*$`).FindStringSubmatch(out)
	if m == nil {
		return version{}, "", fmt.Errorf("no version in %.60q", out)
	}
	for i, text := range m[1:] {
		if text == "" {
			continue
		}
		if v[i], err = strconv.Atoi(text); err != nil {
			return version{}, "", fmt.Errorf("version in %.60q: %w", out, err)
		}
	}
	return v, m[0], nil
}

// fits reports whether an installed program works with the pinned Kubernetes.
func (k kind) fits(v version, pinned string) bool {
	if k.least != (version{}) {
		return slices.Compare(v[:], k.least[:]) >= 0
	}
	want, _, err := parseVersion(pinned)
	return err == nil && v[0] == want[0] && v[1] == want[1]
}
