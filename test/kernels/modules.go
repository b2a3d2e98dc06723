// The kernel and the modules that the tests need.

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// needed returns the modules that the tests need where the kernel does not have them built in. The
// machine has no modprobe, so modules that the kernel would load by itself are among them.
func needed() []string {
	return []string{
		"veth", "bridge", "dummy", "tun", "8021q", "br_netfilter", "ipv6",
		"nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_reject_ipv4", "nf_reject_ipv6",
		"nft_chain_nat", "nft_nat", "nft_ct", "nft_counter", "nft_reject", "nft_reject_ipv4",
		"nft_reject_inet", "nft_reject_netdev",
		"nft_fib", "nft_fib_ipv4", "nft_fib_inet", "nft_masq", "nft_redir", "nft_meta_bridge",
		"nft_log", "nft_limit", "nft_socket",
		"nfnetlink",
		"inet_diag", "tcp_diag", "unix_diag",
		"sch_ingress", "cls_bpf", "cls_matchall", "cls_u32", "cls_flower", "act_bpf", "act_gact", "act_mirred",
	}
}

// boot is the kernel of an unpacked package.
type boot struct {
	image   string
	modules string   // their folder
	load    []string // modules in the order of loading, below their folder
}

func newBoot(dir string) (b boot, err error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return b, fmt.Errorf("find the kernel in %s: %d files: %w", dir, len(images), err)
	}
	b.image = images[0]
	if b.modules, err = modulesFolder(dir); err != nil {
		return b, err
	}
	dep, err := os.ReadFile(filepath.Join(b.modules, "modules.dep"))
	if err != nil {
		return b, fmt.Errorf("read the modules' dependencies: %w", err)
	}
	b.load = loadOrder(string(dep), needed())
	return b, nil
}

// modulesFolder returns the folder of the only kernel's modules.
func modulesFolder(tree string) (string, error) {
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		if found, err := filepath.Glob(filepath.Join(tree, lib, "*")); err == nil && len(found) == 1 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("no modules of one kernel in %s", tree)
}

// makeModulesDep makes the list of dependencies, which packages make when they are installed.
func makeModulesDep(ctx context.Context, tree string) error {
	folder, err := modulesFolder(tree)
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(folder, filepath.Join("/lib/modules", filepath.Base(folder)))
	depmod, err := exec.LookPath("depmod")
	if err != nil {
		depmod = "/usr/sbin/depmod" // users other than root do not have that folder in their PATH
	}
	if _, err := command(ctx, "", depmod, "--basedir", base, filepath.Base(folder)); err != nil {
		return fmt.Errorf("list the modules' dependencies: %w", err)
	}
	return nil
}

// loadOrder returns the paths of modules and of those that they depend on, each after its
// dependencies, given the text of modules.dep. Modules that are not in it are built in.
func loadOrder(dep string, names []string) (order []string) {
	paths, after := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(dep) {
		path, others, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, _, _ := strings.Cut(filepath.Base(path), ".")
		paths[strings.ReplaceAll(name, "-", "_")] = path
		after[path] = strings.Fields(others) // the dependencies of dependencies, too, the first one last
	}
	for _, name := range names {
		path, found := paths[name]
		if !found {
			continue
		}
		for _, p := range append(slices.Clone(reversed(after[path])), path) {
			if !slices.Contains(order, p) {
				order = append(order, p)
			}
		}
	}
	return order
}

func reversed(list []string) []string {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}
