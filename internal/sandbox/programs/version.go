// Which installed program is good enough.

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

// kind says how a program tells its version, which versions will do, and where it comes from otherwise.
type kind struct {
	name string
	// ask are the arguments that make it print its version.
	ask []string
	// least is the lowest version that works; for Kubernetes the pinned minor version is demanded instead.
	least version
	// source is what it is built from; or tree is its place inside Debian's packages.
	source *source
	tree   string
}

// version is major, minor and patch.
type version [3]int

// kinds are all programs; what is built comes in the order in which most packages are shared: the biggest first.
//
// etcd: an older one cannot tell the API server how far its watches are (Kubernetes asks for 3.4.31 or 3.5.13), and
// watches on quiet resources then hang. Debian 12 has 3.4.23, so it is built.
// nft: kube-proxy in its nftables mode asks for 1.0.1.
var kinds = []kind{ //nolint:gochecknoglobals // a constant table
	{name: "kube-apiserver", ask: []string{"--version"}, source: kubernetes("kube-apiserver")},
	{name: "kubelet", ask: []string{"--version"}, source: kubernetes("kubelet")},
	{name: "kube-controller-manager", ask: []string{"--version"}, source: kubernetes("kube-controller-manager")},
	{name: "kube-scheduler", ask: []string{"--version"}, source: kubernetes("kube-scheduler")},
	{name: "kube-proxy", ask: []string{"--version"}, source: kubernetes("kube-proxy")},
	{name: "kubectl", ask: []string{"version", "--client"}, source: kubernetes("kubectl")},
	{
		name: "etcd", ask: []string{"--version"}, least: version{3, 5, 13},
		source: &source{module: "hack/etcd", pinned: "go.etcd.io/etcd/server/v3", pkg: "go.etcd.io/etcd/server/v3"},
	},
	{name: "containerd", ask: []string{"--version"}, least: version{1, 6}, tree: "usr/bin/containerd"},
	{name: "containerd-shim-runc-v2", ask: []string{"-v"}, least: version{1, 6}, tree: "usr/bin/containerd-shim-runc-v2"},
	{name: "ctr", ask: []string{"--version"}, least: version{1, 6}, tree: "usr/bin/ctr"},
	{name: "runc", ask: []string{"--version"}, least: version{1, 1}, tree: "usr/sbin/runc"},
	{name: "nft", ask: []string{"--version"}, least: version{1, 0, 1}, tree: "usr/sbin/nft"},
}

// version runs the program and returns the first version number that it prints, with the whole line.
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

// parseVersion finds the first number of the form 1.2, 1.2.3 or v1.2.3 that stands as a word of its own.
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

// fits tells whether an installed program will do next to the pinned Kubernetes.
func (k kind) fits(v version, pinned string) bool {
	if k.least != (version{}) {
		return slices.Compare(v[:], k.least[:]) >= 0
	}
	want, _, err := parseVersion(pinned)
	return err == nil && v[0] == want[0] && v[1] == want[1]
}
