// Package programs finds the programs that a sandbox runs, or gets them: Kubernetes and etcd as
// official releases or from their pinned source, the rest from Debian's packages. It never installs
// anything, and never touches a containerd or Docker that runs on the machine.
package programs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// Source returns the checkout: the nearest folder with the pinned Kubernetes module, upwards from
// the working directory or from the running program. Without one it returns the kit of this podid,
// if Ready has got it.
func Source() (string, error) {
	var from []string
	if wd, err := os.Getwd(); err == nil {
		from = append(from, wd)
	}
	if self, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(self))
	}
	for _, dir := range from {
		for {
			if _, err := os.Stat(filepath.Join(dir, kubernetesModule, "go.mod")); err == nil {
				return dir, nil
			}
			up := filepath.Dir(dir)
			if up == dir {
				break
			}
			dir = up
		}
	}
	k, err := ownKit(os.Getenv)
	if err != nil {
		return "", err
	}
	if !k.complete() {
		return "", fmt.Errorf("find podid's source: run this in its checkout, or run `podid sandbox prepare` first (no %s/go.mod here or above)", kubernetesModule)
	}
	return k.dir, nil
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
