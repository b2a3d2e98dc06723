package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A node of AKS with kubenet, as containerd writes it there; and one that once was.
const (
	kubenetList = `{"cniVersion":"0.3.1","name":"kubenet","plugins":[{"type":"bridge","bridge":"cbr0","promiscMode":true},{"type":"portmap"}]}`
	azureList   = `{"cniVersion":"0.3.0","name":"azure","plugins":[{"type":"azure-vnet","mode":"transparent"},{"type":"portmap"}]}`
)

func TestKubenet(t *testing.T) {
	for _, tt := range []struct {
		name    string
		kubelet string
		cni     map[string]string
		allow   bool
		want    string // in the error; empty for none
	}{
		{"nothing there", "", nil, false, ""},
		{"kubelet flag", "KUBELET_FLAGS=--v=2 --network-plugin=kubenet\n", nil, false, "kubelet says that this node uses kubenet"},
		{"kubelet flag apart", "KUBELET_FLAGS=--network-plugin kubenet", nil, false, "uses kubenet"},
		{"other kubelet flag", "KUBELET_FLAGS=--network-plugin=cni", nil, false, ""},
		{"bridge of AKS", "", map[string]string{"10-containerd-net.conflist": kubenetList}, false, "10-containerd-net.conflist says"},
		{"kubelet's old bridge", "", map[string]string{"x.conf": `{"name":"kubenet","type":"bridge"}`}, false, "x.conf says"},
		{"type kubenet", "", map[string]string{"x.conf": `{"name":"mine","type":"kubenet"}`}, false, "x.conf says"},
		{"type kubenet in a list", "", map[string]string{"x.conflist": `{"name":"mine","plugins":[{"type":"kubenet"}]}`}, false, "x.conflist says"},
		{"capitals", "", map[string]string{"x.conflist": `{"name":"Kubenet","plugins":[{"type":"bridge"}]}`}, false, "x.conflist says"},
		{"Azure CNI", "", map[string]string{"10-azure.conflist": azureList}, false, ""},
		{"left over behind another", "", map[string]string{"10-azure.conflist": azureList, "10-containerd-net.conflist": kubenetList}, false, ""},
		{"behind one that is broken", "", map[string]string{"05-x.conf": "{", "06-x.conf": `{"name":"x"}`, "10-y.conflist": kubenetList}, false, "10-y.conflist says"},
		{"not a configuration", "", map[string]string{"10-y.conflist.bak": kubenetList}, false, ""},
		{"allowed", "--network-plugin=kubenet", map[string]string{"y.conflist": kubenetList}, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			o := nodeOptions{kubeletConfig: filepath.Join(dir, "kubelet"), cniConfigDir: filepath.Join(dir, "net.d"), allowKubenet: tt.allow}
			if tt.kubelet != "" {
				write(t, o.kubeletConfig, tt.kubelet)
			}
			for name, text := range tt.cni {
				write(t, filepath.Join(o.cniConfigDir, name), text)
			}
			err := o.checkKubenet()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// The agent may be there before the network plugin.
func TestKubenetComesLater(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := nodeOptions{cniConfigDir: dir}
		go func() {
			<-time.After(90 * time.Second)
			write(t, filepath.Join(dir, "10-containerd-net.conflist"), kubenetList)
		}()
		began := time.Now()
		if err := o.watchKubenet(t.Context(), time.Minute); err == nil || time.Since(began) != 2*time.Minute {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
