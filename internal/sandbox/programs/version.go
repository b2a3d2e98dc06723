// Which installed program is good enough.
package programs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// kind says how a program tells its version and which versions will do.
type kind struct {
	name string
	// ask are the arguments that make it print its version.
	ask []string
	// least is the lowest version that works; for Kubernetes the pinned minor version is demanded instead.
	least [2]int
	// tree is its place inside Debian's packages; empty for Kubernetes.
	tree string
}

var kinds = []kind{ //nolint:gochecknoglobals // a constant table
	{name: "kube-apiserver", ask: []string{"--version"}},
	{name: "kubelet", ask: []string{"--version"}},
	{name: "kube-controller-manager", ask: []string{"--version"}},
	{name: "kube-scheduler", ask: []string{"--version"}},
	{name: "kube-proxy", ask: []string{"--version"}},
	{name: "kubectl", ask: []string{"version", "--client"}},
	{name: "etcd", ask: []string{"--version"}, least: [2]int{3, 4}, tree: "usr/bin/etcd"},
	{name: "containerd", ask: []string{"--version"}, least: [2]int{1, 6}, tree: "usr/bin/containerd"},
	{name: "containerd-shim-runc-v2", ask: []string{"-v"}, least: [2]int{1, 6}, tree: "usr/bin/containerd-shim-runc-v2"},
	{name: "ctr", ask: []string{"--version"}, least: [2]int{1, 6}, tree: "usr/bin/ctr"},
	{name: "runc", ask: []string{"--version"}, least: [2]int{1, 1}, tree: "usr/sbin/runc"},
	{name: "nft", ask: []string{"--version"}, least: [2]int{1, 0}, tree: "usr/sbin/nft"},
}

// version runs the program and returns the first version number that it prints, with the whole line.
func (k kind) version(ctx context.Context, file, libraries string) (major, minor int, line string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, k.ask...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, "", fmt.Errorf("ask %s for its version: %w", file, err)
	}
	return parseVersion(string(out))
}

// parseVersion finds the first number of the form 1.2 or v1.2 that stands as a word of its own.
func parseVersion(out string) (major, minor int, line string, err error) {
	m := regexp.MustCompile(`(?m)^.*?(?:^|[ :])v?(\d+)\.(\d+)[.\d]*.*$`).FindStringSubmatch(out)
	if m == nil {
		return 0, 0, "", fmt.Errorf("no version in %.60q", out)
	}
	if major, err = strconv.Atoi(m[1]); err != nil {
		return 0, 0, "", fmt.Errorf("version in %.60q: %w", out, err)
	}
	if minor, err = strconv.Atoi(m[2]); err != nil {
		return 0, 0, "", fmt.Errorf("version in %.60q: %w", out, err)
	}
	return major, minor, m[0], nil
}

// fits tells whether an installed program will do next to the pinned Kubernetes.
func (k kind) fits(major, minor int, pinned string) bool {
	if k.tree != "" {
		return major > k.least[0] || major == k.least[0] && minor >= k.least[1]
	}
	wantMajor, wantMinor, _, err := parseVersion(pinned)
	return err == nil && major == wantMajor && minor == wantMinor
}
