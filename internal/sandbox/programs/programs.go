// Package programs finds the programs that a sandbox runs, or gets them: Kubernetes and etcd as
// official releases or from their pinned source, the rest from Debian's packages. It never installs
// anything, and never touches a containerd or Docker that runs on the machine.
package programs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Set lists where each program is.
type Set struct {
	// Paths maps a program's name to its file.
	Paths map[string]string `json:"paths"`
	// CNI is the folder with the network plugins.
	CNI string `json:"cni"`
	// Libraries is the folder with shared libraries that programs from packages need, or "".
	Libraries string `json:"libraries,omitempty"`
	// Assets is a folder that serves as KUBEBUILDER_ASSETS: etcd, kube-apiserver and kubectl.
	Assets string `json:"assets"`
	// Kubernetes is the version of its programs, for example v1.34.4.
	Kubernetes string `json:"kubernetes"`
	// ContainerdVersion is the line that `containerd --version` printed.
	ContainerdVersion string `json:"containerdVersion"`
}

// Path returns the program's file, or its bare name if it is not in the set.
func (s Set) Path(name string) string {
	if p, ok := s.Paths[name]; ok {
		return p
	}
	return name
}

// Cache returns the folder for everything built and downloaded, which is outside any checkout.
func Cache(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "podid"), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "podid"), nil
	}
	return "", errors.New("find the cache: neither XDG_CACHE_HOME nor HOME is set")
}

// Source returns the folder with the chart and the pins. That of a released podid is its kit. For
// another podid it is the nearest checkout, upwards from the working directory or from the running
// program, or the kit of its version. Ready gets the kit.
func Source() (string, error) {
	var refused error
	if kitChecksum == "" {
		dir, err := nearestCheckout()
		if dir != "" {
			return dir, nil
		}
		refused = err
	}
	k, err := ownKit(os.Getenv)
	if err != nil {
		return "", errors.Join(err, refused)
	}
	if !k.complete() {
		return "", errors.Join(fmt.Errorf("find podid's source: run this in its checkout, or run `podid sandbox prepare` first (no %s/go.mod here or above)",
			kubernetesModule), refused)
	}
	return k.dir, nil
}

// nearestCheckout returns "" if there is none, and an error if one was refused.
func nearestCheckout() (string, error) {
	var from []string
	trusted := callers(os.Geteuid(), os.Getenv("SUDO_UID"))
	if wd, err := os.Getwd(); err == nil {
		from = append(from, wd)
	}
	self, err := os.Executable()
	if err == nil {
		from = append(from, filepath.Dir(self))
		if owner, err := ownerOf(self); err == nil {
			trusted = append(trusted, owner) // it is running already
		}
	}
	var refused error
	for _, dir := range from {
		for ; ; dir = filepath.Dir(dir) {
			if looksLikeCheckout(dir) {
				err := checkOwners(dir, trusted)
				if err == nil || self == filepath.Join(dir, "bin", "podid") { // what make build has built there
					return dir, nil
				}
				refused = cmp.Or(refused, err)
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", refused
}

// callers returns the users whose files are trusted: this one, root, and the one that called sudo.
func callers(self int, sudo string) []int {
	trusted := []int{0, self}
	if uid, err := strconv.Atoi(sudo); err == nil && self == 0 {
		trusted = append(trusted, uid)
	}
	return trusted
}

// looksLikeCheckout reports whether a folder may be a checkout of podid.
func looksLikeCheckout(dir string) bool {
	content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || !strings.Contains("\n"+string(content), "\nmodule "+module+"\n") {
		return false
	}
	_, err = os.Stat(filepath.Join(dir, kubernetesModule, "go.mod"))
	return err == nil
}

// checkOwners fails if a checkout belongs to another user, who would choose what runs as this user,
// often root.
func checkOwners(dir string, trusted []int) error {
	for _, name := range []string{dir, filepath.Join(dir, "go.mod")} {
		owner, err := ownerOf(name)
		if err != nil {
			return fmt.Errorf("use the checkout %s: %w", dir, err)
		}
		if !slices.Contains(trusted, owner) {
			return fmt.Errorf("the checkout %s is not used: %s belongs to user %d", dir, name, owner)
		}
	}
	return nil
}

// ownerOf returns the owner of a file or folder, for a link that of the link.
func ownerOf(name string) (int, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("find the owner of %s: it is a %T", name, info.Sys())
	}
	return int(stat.Uid), nil
}

// kubernetesModule is where the checkout pins Kubernetes and etcd.
const kubernetesModule = "hack/kubernetes"

// required returns the version of a module that a go.mod requires.
func required(gomod, module string) (string, error) {
	for line := range strings.Lines(gomod) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) >= 2 && f[0] == module && strings.HasPrefix(f[1], "v") {
			return f[1], nil
		}
	}
	return "", errors.New("its go.mod does not require it")
}
