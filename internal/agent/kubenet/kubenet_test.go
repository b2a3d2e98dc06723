package kubenet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The configuration of containerd on an AKS node with kubenet, and that of Azure CNI.
const (
	kubenetList = `{"cniVersion":"0.3.1","name":"kubenet","plugins":[{"type":"bridge","bridge":"cbr0","promiscMode":true},{"type":"portmap"}]}`
	azureList   = `{"cniVersion":"0.3.0","name":"azure","plugins":[{"type":"azure-vnet","mode":"transparent"},{"type":"portmap"}]}`
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name    string
		kubelet string
		cni     map[string]string
		want    string // in the error, empty for none
	}{
		{"no configuration", "", nil, ""},
		{"kubelet flag", "KUBELET_FLAGS=--v=2 --network-plugin=kubenet\n", nil, "kubelet shows that this node uses kubenet"},
		{"kubelet flag apart", "KUBELET_FLAGS=--network-plugin kubenet", nil, "uses kubenet"},
		{"other kubelet flag", "KUBELET_FLAGS=--network-plugin=cni", nil, ""},
		{"bridge of AKS", "", map[string]string{"10-containerd-net.conflist": kubenetList}, "10-containerd-net.conflist shows"},
		{"kubelet's old bridge", "", map[string]string{"x.conf": `{"name":"kubenet","type":"bridge"}`}, "x.conf shows"},
		{"type kubenet", "", map[string]string{"x.conf": `{"name":"mine","type":"kubenet"}`}, "x.conf shows"},
		{"type kubenet in a list", "", map[string]string{"x.conflist": `{"name":"mine","plugins":[{"type":"kubenet"}]}`}, "x.conflist shows"},
		{"capitals", "", map[string]string{"x.conflist": `{"name":"Kubenet","plugins":[{"type":"bridge"}]}`}, "x.conflist shows"},
		{"Azure CNI", "", map[string]string{"10-azure.conflist": azureList}, ""},
		{"left over behind another", "", map[string]string{"10-azure.conflist": azureList, "10-containerd-net.conflist": kubenetList}, ""},
		{"behind one that is broken", "", map[string]string{"05-x.conf": "{", "06-x.conf": `{"name":"x"}`, "10-y.conflist": kubenetList}, "10-y.conflist shows"},
		{"not a configuration", "", map[string]string{"10-y.conflist.bak": kubenetList}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d := Detector{KubeletConfig: filepath.Join(dir, "kubelet"), CNIConfigDir: filepath.Join(dir, "net.d")}
			if tt.kubelet != "" {
				write(t, d.KubeletConfig, tt.kubelet)
			}
			for name, text := range tt.cni {
				write(t, filepath.Join(d.CNIConfigDir, name), text)
			}
			err := d.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestWatch: an agent may start before the network plugin.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := Detector{CNIConfigDir: dir}
		go func() {
			<-time.After(90 * time.Second)
			write(t, filepath.Join(dir, "10-containerd-net.conflist"), kubenetList)
		}()
		began := time.Now()
		if err := d.Watch(t.Context(), time.Minute); err == nil || time.Since(began) != 2*time.Minute {
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
